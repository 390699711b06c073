"""Text that tells whether the accumulators of a layer are exact in float32."""

from qatfunc.limits import EXACT_FLOAT32


def describe_exactness(bound: int | None, *, proven: bool, measured: int | None = None) -> str:
    """Describe whether a layer's sums are proven exact, measured on data, or neither.

    Args:
        bound: largest possible |accumulator|; None if not known.
        proven: whether bound < 2^24.
        measured: largest |accumulator| on data; None without data.
    Returns:
        text such as "proven (1.2% of 2^24)".
    """
    if bound is None:
        bound, proven = 0, False
        if measured is None:
            return "to be measured (depth not in the file)"
    if proven:
        return f"proven ({bound / EXACT_FLOAT32:.1%} of 2^24)"
    if measured is None:
        return f"to be measured (bound {bound / EXACT_FLOAT32:.1f} x 2^24)"
    return f"measured ({measured / EXACT_FLOAT32:.1%} of 2^24)"
