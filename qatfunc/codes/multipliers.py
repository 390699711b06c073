"""Multipliers for which a product of two values has the same result on every engine.

    code = clamp(round((a - zero_a) * (b - zero_b) * multiplier) + zero_y, qmin, qmax)

with multiplier = scale_a * scale_b / scale_y.

Hypothesis. For all pairs of codes of 8 bits, (a - zero_a) * (b - zero_b) * multiplier, as a real
number, is more than 2^-15 away from every tie (halfway between two codes) inside the range.

Claim. These give the same code for every pair, with int8 codes and with uint8 codes:

    acc = (a - zero_a) * (b - zero_b)
    round(float32(acc * multiplier)) + zero_y                    training
    round(float32(float32(acc * multiplier) + zero_y))           QLinearMul of ONNX Runtime
    round(float32(acc * multiplier + zero_y))                    the same, fused
    round(float32(float32((a - zero_a) * multiplier) * (b - zero_b))) + zero_y
                                 DequantizeLinear of scales multiplier and 1, Mul, QuantizeLinear

Why. acc is exact in float32. Inside the range acc * multiplier, and its sum with zero_y, are below
256 in magnitude, where float32 rounds by at most 2^-17; a first rounding of one operand changes the
product by at most 256 * 2^-24. Together these do not move a number across a tie that is farther
than 2^-15 away, whichever way ties are rounded. Outside the range the code saturates, since
rounding is monotone.

`fit_multiplier` tries all products; in float64 each of them is exact (16 and 24 bits). It adjusts
the multiplier by the fewest ulps that satisfy the hypothesis. Where a product is a tie at 1/2 these
are more than 512, because an ulp moves the product by 2^-24 at most.
"""

from typing import NamedTuple

import numpy as np

from qatfunc.codes.grids import ValueGrid
from qatfunc.codes.ties import adjusted, check_bits, nearest_first, tie_distance

_MARGIN = 2.0**-15
"""The roundings to float32 of any of these forms."""

_LARGEST_STEP = 2.0**-23 * 256
"""By how much an ulp of the multiplier moves a product inside the range, at most."""


class FittedMultiplier(NamedTuple):
    """A multiplier that is proven for all pairs of codes."""

    multiplier: np.float32
    ulps: int
    """How far it is from float32(float32(scale_a * scale_b) / scale_y)."""


def fit_multiplier(
    a: ValueGrid, b: ValueGrid, y: ValueGrid, *, max_ulps: int = 2048
) -> FittedMultiplier | None:
    """Find the nearest multiplier for which no product is near a tie.

    Args:
        a: the first operand, of at most 8 bits.
        b: the second operand, of at most 8 bits.
        y: the product, of at most 8 bits.
        max_ulps: largest adjustment of the multiplier.
    Returns:
        the multiplier, or None if there is none so near, or the natural one is infinite.
    Raises:
        ValueError: a grid has more than 8 bits, or max_ulps is negative.
    """
    check_bits(a, b, y)
    with np.errstate(over="ignore", under="ignore"):
        natural = np.float32(a.scale) * np.float32(b.scale) / np.float32(y.scale)
    if not np.isfinite(natural):
        return None
    products = np.unique(np.multiply.outer(a.integers, b.integers)).astype(np.float64)
    reach = _MARGIN + max_ulps * _LARGEST_STEP
    near = products[tie_distance(products * float(natural), y) <= reach]
    for ulps in nearest_first(max_ulps):
        multipliers = adjusted(float(natural), ulps)
        clear = (tie_distance(near * multipliers[:, None], y) > _MARGIN).all(axis=1)
        for i in np.flatnonzero(clear & np.isfinite(multipliers)):
            if (tie_distance(products * multipliers[i], y) > _MARGIN).all():
                return FittedMultiplier(np.float32(multipliers[i]), int(ulps[i]))
    return None
