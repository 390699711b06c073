"""What engines compute for products of all 65,536 pairs of codes, each in its own order."""

from collections.abc import Callable

import numpy as np

from tests.support.requantization.add_kernels import Array, every_pair

Kernel = Callable[[np.float32, tuple[int, int], int], Array]


def natural(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """Round the product as a real number, half to even; float64 holds it exactly."""
    return _codes(np.rint(_products(zeros) * float(multiplier)) + zero_y)


def training(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """One multiplication in float32; zero_y is added to the rounded product."""
    return _codes(np.rint(_products(zeros).astype(np.float32) * multiplier) + zero_y)


def qlinear(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """QLinearMul: zero_y is added before the rounding."""
    products = _products(zeros).astype(np.float32) * multiplier
    return _codes(np.rint(products + np.float32(zero_y)))


def fused(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """The same by a fused multiply-add: float64 holds product and sum exactly enough."""
    sums = (_products(zeros) * float(multiplier) + zero_y).astype(np.float32)
    return _codes(np.rint(sums))


def pairs(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """DequantizeLinear of one operand by the multiplier, Mul, QuantizeLinear."""
    a, b = (code.astype(np.float32) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    return _codes(np.rint((a * multiplier) * b) + zero_y)


def pairs_qlinear(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """The same with zero_y added before the rounding."""
    a, b = (code.astype(np.float32) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    return _codes(np.rint((a * multiplier) * b + np.float32(zero_y)))


def away_from_zero(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """Ties away from zero."""
    products = (_products(zeros).astype(np.float32) * multiplier).astype(np.float64)
    return _codes(np.sign(products) * np.floor(np.abs(products) + 0.5) + zero_y)


def signed(multiplier: np.float32, zeros: tuple[int, int], zero_y: int) -> Array:
    """QLinearMul of int8 codes, whose zero point is 128 less; shifted back."""
    products = _products(zeros).astype(np.float32) * multiplier
    rounded = np.rint(products + np.float32(zero_y - 128))
    return (np.clip(rounded, -128, 127) + 128).astype(np.uint8)


def _products(zeros: tuple[int, int]) -> Array:
    a, b = (code.astype(np.float64) - zero for code, zero in zip(every_pair(), zeros, strict=True))
    return a * b


def _codes(values: Array) -> Array:
    return np.clip(values, 0, 255).astype(np.uint8)


KERNELS: dict[str, Kernel] = {
    "training": training,
    "QLinearMul": qlinear,
    "fused": fused,
    "pairs": pairs,
    "pairs, zero point first": pairs_qlinear,
    "away from zero": away_from_zero,
    "int8": signed,
}
"""By what they do otherwise than the others."""
