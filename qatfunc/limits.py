"""The largest integers that number types hold exactly, and the limits of scales and ranges."""

EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and every sum of integers in any order, is exact in float32."""

EXACT_FLOAT64 = 1 << 53
"""Up to this every integer is exact in float64, in which 16-bit operands are summed."""

INT32_MAX = (1 << 31) - 1
"""The largest int32, which bounds accumulators, biases and counts."""

SMALLEST_SCALE = 2.0**-23
"""A scale below this, the float32 epsilon, belongs to an empty range and is replaced by 1."""

LARGEST_SCALE = 2.0**32
"""A trained weight scale above this is invalid."""

LARGEST_END = 2.0**64
"""An end of a range above this, in magnitude, is invalid.

Together with LARGEST_SCALE it keeps a 32-bit integer times two scales within float32.
"""
