"""What kernels of QLinearAdd compute for all 65,536 pairs of codes, each in its own way."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Factors = tuple[np.float32, np.float32]
Kernel = Callable[[Factors, tuple[int, int], int], Array]

_FIXED_BITS = 21


def every_pair() -> tuple[Array, Array]:
    """Return all pairs of codes, (65536,) each."""
    a, b = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    return a.ravel(), b.ravel()


def natural(factors: tuple[float, float], zeros: tuple[int, int], zero_y: int) -> Array:
    """Round the sums as real numbers, half to even."""
    a, b = (code.astype(np.float64) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    sums = a * float(factors[0]) + b * float(factors[1])
    return np.clip(np.rint(sums) + zero_y, 0, 255).astype(np.uint8)


def unfused(factors: Factors, zeros: tuple[int, int], zero_y: int) -> Array:
    """Everything that is constant first, every operation rounded; zero_y before the rounding."""
    a, b = (code.astype(np.float32) for code in every_pair())
    sums = (_fixed_part(factors, zeros, zero_y) + b * factors[1]) + a * factors[0]
    return np.clip(np.rint(sums), 0, 255).astype(np.uint8)


def fused(factors: Factors, zeros: tuple[int, int], zero_y: int) -> Array:
    """The same with fused multiplications: float64 holds the products exactly."""
    a, b = (code.astype(np.float64) for code in every_pair())
    sums = (_fixed_part(factors, zeros, zero_y) + b * factors[1]).astype(np.float32)
    sums = (sums + a * factors[0]).astype(np.float32)
    return np.clip(np.rint(sums), 0, 255).astype(np.uint8)


def centered(factors: Factors, zeros: tuple[int, int], zero_y: int) -> Array:
    """Zero points are subtracted first; zero_y is added to the float sum."""
    a, b = (code.astype(np.float32) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    sums = (a * factors[0]).astype(np.float32) + (b * factors[1]).astype(np.float32)
    sums = np.clip(sums, -zero_y, 255 - zero_y).astype(np.float32)
    return np.rint(sums + np.float32(zero_y)).astype(np.uint8)


def pairs(factors: Factors, zeros: tuple[int, int], zero_y: int) -> Array:
    """DequantizeLinear, Add, QuantizeLinear: zero_y is added to the rounded sum."""
    a, b = (code.astype(np.float32) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    sums = (a * factors[0]).astype(np.float32) + (b * factors[1]).astype(np.float32)
    return np.clip(np.rint(sums) + zero_y, 0, 255).astype(np.uint8)


def fixed_point(factors: Factors, zeros: tuple[int, int], zero_y: int) -> Array:
    """Integers of 21 bits for the larger factor, rounded half away from zero."""
    shift = _FIXED_BITS - int(np.floor(np.log2(max(factors))))
    a, b = (code.astype(np.int64) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    first, second = (int(np.rint(float(factor) * 2.0**shift)) for factor in factors)
    sums = a * first + b * second
    rounded = np.sign(sums) * ((np.abs(sums) + (1 << (shift - 1))) >> shift)
    return np.clip(rounded + zero_y, 0, 255).astype(np.uint8)


def _fixed_part(factors: Factors, zeros: tuple[int, int], zero_y: int) -> np.float32:
    first, second = (factor * np.float32(zero) for factor, zero in zip(factors, zeros, strict=True))
    return np.float32(np.float32(zero_y) - np.float32(first + second))


KERNELS: dict[str, Kernel] = {
    "unfused": unfused,
    "fused": fused,
    "centered": centered,
    "pairs": pairs,
    "fixed point": fixed_point,
}
"""By what they do otherwise than the others."""
