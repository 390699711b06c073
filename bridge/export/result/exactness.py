"""Whether sums are proven exact, in words."""

from qatfunc.limits import EXACT_FLOAT32


def describe_exactness(bound: int | None, *, proven: bool, measured: int | None = None) -> str:
    """Say whether the sums of a layer are exact for every input, or were on data.

    Args:
        bound: largest |accumulator| any input can cause; None if not known.
        proven: bound < 2^24.
        measured: largest |accumulator| that data caused; None without data.
    Returns:
        such as "proven (1.2% of 2^24)".
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
