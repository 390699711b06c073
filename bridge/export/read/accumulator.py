"""The largest sum that an accumulator may reach."""

from qatfunc.limits import EXACT_FLOAT64, INT32_MAX


def accumulator_limit(*, wide: bool) -> int:
    """Return the largest |sum| that a layer or product may reach.

    Args:
        wide: whether an operand has 16 bits, so that the sums are int64.
    """
    return EXACT_FLOAT64 if wide else INT32_MAX
