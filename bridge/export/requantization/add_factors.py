"""Factors with which a sum of two 8-bit values has one result on every processor.

    code = clamp(round((a - zero_a) * factor_a + (b - zero_b) * factor_b) + zero_y, 0, 255)

with factor_a = scale_a / scale_y. ONNX Runtime's QLinearAdd computes this with multiplications that
are fused or not, rounds ties to even before or after zero_y is added, or works in fixed point of 21
bits and rounds ties away from zero: as each processor has it. All of them agree, with each other
and with DequantizeLinear, Add and QuantizeLinear, where no step but the last one rounds and the
last one meets no tie. So the factors are multiples of 2^-k, with k so small that float32 holds
every sum on the way:

    255 * (1 + factor_a + factor_b) * 2^k <= 2^24

and of the pairs near scale_a / scale_y, scale_b / scale_y they are the nearest for which no two
codes add up to a tie. That is seldom further than a few times 2^-14, or a few hundredths of a code.
"""

from functools import cache

import numpy as np

from bridge.export.read.accumulator import EXACT_FLOAT32

_CODES = np.iinfo(np.uint8).max

_LARGEST_ERROR = 0.25
"""How far moving a factor may move a sum, in codes."""

_MOST = 16
"""How far factors are moved where that is less, in units of 2^-k."""


def fit_factors(
    factors: tuple[float, float], zeros: tuple[int, int], zero_y: int
) -> tuple[np.float32, np.float32] | None:
    """Find the nearest factors with which every sum is exact and none is a tie.

    Args:
        factors: scale_a / scale_y and scale_b / scale_y, positive.
        zeros: zero points of a and b.
        zero_y: zero point of the sum.
    Returns:
        multiples of 2^-k above zero, or None if all lie too far away.
    """
    room = EXACT_FLOAT32 / (_CODES * (1.0 + sum(factors)))
    bits = int(np.floor(np.log2(room))) if room >= 1 else 0
    natural = [factor * 2.0**bits for factor in factors]
    reach = int(_LARGEST_ERROR / _CODES * 2.0**bits)
    for move in _moves(min(reach, _MOST)):
        first, second = (max(round(n) + m, 1) for n, m in zip(natural, move, strict=True))
        if _CODES * ((1 << bits) + first + second) > EXACT_FLOAT32:
            continue
        if not _has_tie((first, second), zeros, zero_y, bits):
            return np.float32(first / 2.0**bits), np.float32(second / 2.0**bits)
    return None


@cache
def _moves(reach: int) -> tuple[tuple[int, int], ...]:
    """Pairs of integers up to reach, the nearest to (0, 0) first; none where there is no room."""
    every = range(-reach, reach + 1) if reach else ()
    pairs = ((a, b) for a in every for b in every)
    return tuple(sorted(pairs, key=lambda pair: (max(map(abs, pair)), sum(map(abs, pair)))))


def _has_tie(multiples: tuple[int, int], zeros: tuple[int, int], zero_y: int, bits: int) -> bool:
    """Whether two codes add up to a tie of two codes, in units of 2^-bits."""
    half, mask = 1 << bits >> 1, (1 << bits) - 1
    a, b = ((np.arange(_CODES + 1) - z) * m for z, m in zip(zeros, multiples, strict=True))
    wanted = np.zeros(1 << bits, np.bool_)
    wanted[(half - a) & mask] = True
    sums = a[:, None] + b[wanted[b & mask]]
    ties = sums[(sums & mask) == half] / (1 << bits) + zero_y
    return bool(((ties > 0) & (ties < _CODES)).any())
