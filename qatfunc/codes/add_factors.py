"""Factors for which QLinearAdd has the same result on every processor.

    code = clamp(round((a - zero_a) * factor_a + (b - zero_b) * factor_b) + zero_y, 0, 255)

with factor_a = scale_a / scale_y and factor_b = scale_b / scale_y.

Hypothesis. Both factors are multiples of 2^-k with

    255 * (1 + factor_a + factor_b) * 2^k <= 2^24

and for no pair of codes (a, b) is the sum a tie (halfway between two codes) inside the range.

Claim. Every kernel of QLinearAdd gives the same code as DequantizeLinear, Add and QuantizeLinear
in float32.

Why. The kernels differ only in their roundings: they fuse multiplications and additions or not,
round ties to even before or after zero_y is added, or use fixed point of 21 bits and round ties
away from zero. By the inequality every intermediate value is exact in float32 and in fixed point,
so only the final round is inexact, and without ties all of its modes agree.

`fit_factors` takes the nearest such pair. It seldom differs from the exact ratios by more than a
few times 2^-14, which changes a sum by a few hundredths of a code.
"""

from functools import cache

import numpy as np

from qatfunc.codes.grids import ValueGrid
from qatfunc.codes.ties import check_bits
from qatfunc.limits import EXACT_FLOAT32

_CODES = np.iinfo(np.uint8).max

_LARGEST_ERROR = 0.25
"""Largest change of a sum that adjusting a factor may cause, in codes."""

_MOST = 16
"""Largest adjustment of a factor in units of 2^-k, where _LARGEST_ERROR allows more."""


def fit_sum(a: ValueGrid, b: ValueGrid, y: ValueGrid) -> tuple[np.float32, np.float32] | None:
    """Find the factors of a sum of quantized values; they serve signed and unsigned codes.

    Args:
        a: the first operand, of at most 8 bits.
        b: the second operand, of at most 8 bits.
        y: the sum, of at most 8 bits.
    Returns:
        as fit_factors.
    Raises:
        ValueError: a grid has more than 8 bits.
    """
    check_bits(a, b, y)
    return fit_factors((a.scale / y.scale, b.scale / y.scale), (-a.low, -b.low), -y.low)


def fit_factors(
    factors: tuple[float, float], zeros: tuple[int, int], zero_y: int
) -> tuple[np.float32, np.float32] | None:
    """Find the nearest factors for which every sum is exact and none is a tie.

    Args:
        factors: scale_a / scale_y and scale_b / scale_y, positive.
        zeros: zero points of a and b, uint8 codes.
        zero_y: zero point of the sum, a uint8 code.
    Returns:
        positive multiples of 2^-k, or None if there are none close enough.
    """
    room = EXACT_FLOAT32 / (_CODES * (1.0 + sum(factors)))
    bits = int(np.floor(np.log2(room))) if room >= 1 else 0
    natural = [factor * 2.0**bits for factor in factors]
    reach = int(_LARGEST_ERROR / _CODES * 2.0**bits)
    for adjustment in _nearest_first(min(reach, _MOST)):
        first, second = (max(round(n) + m, 1) for n, m in zip(natural, adjustment, strict=True))
        if _CODES * ((1 << bits) + first + second) > EXACT_FLOAT32:
            continue
        if not _has_tie((first, second), zeros, zero_y, bits):
            return np.float32(first / 2.0**bits), np.float32(second / 2.0**bits)
    return None


@cache
def _nearest_first(reach: int) -> tuple[tuple[int, int], ...]:
    """Pairs of integers in [-reach, reach], nearest to (0, 0) first; none for a reach of 0."""
    every = range(-reach, reach + 1) if reach else ()
    pairs = ((a, b) for a in every for b in every)
    return tuple(sorted(pairs, key=lambda pair: (max(map(abs, pair)), sum(map(abs, pair)))))


def _has_tie(multiples: tuple[int, int], zeros: tuple[int, int], zero_y: int, bits: int) -> bool:
    """Whether some pair of codes has a sum halfway between two codes; multiples of 2^-bits."""
    half, mask = 1 << bits >> 1, (1 << bits) - 1
    a, b = ((np.arange(_CODES + 1) - z) * m for z, m in zip(zeros, multiples, strict=True))
    wanted = np.zeros(1 << bits, np.bool_)
    wanted[(half - a) & mask] = True
    sums = a[:, None] + b[wanted[b & mask]]
    ties = sums[(sums & mask) == half] / (1 << bits) + zero_y
    return bool(((ties > 0) & (ties < _CODES)).any())
