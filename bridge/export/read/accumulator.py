"""Limits of accumulators: the largest sums that each type represents exactly."""

INT32_MAX = (1 << 31) - 1
"""Largest sum, in magnitude, of the int32 accumulators of ConvInteger and MatMulInteger."""

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and every sum of integers in any order, is exact in float32."""

EXACT_FLOAT64 = 1 << 53
"""Up to this every integer is exact in float64: the limit of the int64 sums of 16-bit operands."""


def accumulator_limit(*, wide: bool) -> int:
    """Return the largest |sum| that a layer or product may reach.

    Args:
        wide: whether an operand has 16 bits, so that the sums are int64.
    """
    return EXACT_FLOAT64 if wide else INT32_MAX
