"""What numbers can hold, and which scales and ranges are of use."""

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and every sum of integers in any order, is exact in float32."""

EXACT_FLOAT64 = 1 << 53
"""Up to this every integer is exact in float64, which sums products of 16-bit operands."""

INT32_MAX = (1 << 31) - 1
"""Largest int32: of a sum in an accumulator, of a bias, of a count."""

SMALLEST_SCALE = 2.0**-23
"""Below this a scale stands for an empty range and is replaced by 1 (float32 epsilon)."""

LARGEST_SCALE = 2.0**32
"""Above this a trained weight scale is of no use."""

LARGEST_END = 2.0**64
"""Above this, in magnitude, an end of a range is of no use.

With LARGEST_SCALE it keeps products of two scales by a 32-bit integer within float32.
"""
