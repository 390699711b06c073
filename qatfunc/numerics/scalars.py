"""Scales as Python numbers: float32 values without a chain of operators on one-element tensors.

A sum, difference, product or quotient of two float32 numbers, computed in float64 and rounded to
float32, is what float32 arithmetic gives (53 >= 2 * 24 + 2 bits), so these are the bits of
`ulq.ulq_qparams` and `arq.symmetric_scale`.
"""

import ctypes
import math
import struct

from qatfunc.spec import SMALLEST_SCALE, ActivationSpec, IntSpec


def to_float32(value: float) -> float:
    """Round to the nearest float32, to infinity beyond the largest."""
    return ctypes.c_float(value).value


def next_float32(value: float) -> float:
    """Return the smallest float32 above a float32 that is not negative.

    Args:
        value: a float32 number; infinity and NaN have none above them.
    Returns:
        a float32 number, for infinity and NaN the same.

    >>> next_float32(1.0) == 1.0 + 2.0**-23
    True
    """
    if not math.isfinite(value):
        return value
    bits = struct.unpack("<i", struct.pack("<f", value + 0.0))[0]  # -0.0 becomes 0.0
    return float(struct.unpack("<f", struct.pack("<i", bits + 1))[0])


def round_half_even(value: float) -> float:
    """Round to an integer, ties to even; what is not finite stays as it is."""
    return float(round(value)) if math.isfinite(value) else value


def symmetric_scale(high: float, low: float, spec: IntSpec) -> float:
    """Return what arq.symmetric_scale gives for two float32 numbers.

    Args:
        high: the largest value.
        low: the smallest value.
        spec: the grid.
    Returns:
        the scale, a float32 number.
    """
    high, low = abs(high), abs(low)
    scale = to_float32(high / spec.qmax if high >= low else low / -spec.qmin)
    return 1.0 if scale < SMALLEST_SCALE else scale


def ulq_scale(high: float, low: float, spec: ActivationSpec) -> tuple[float, float]:
    """Return what ulq.ulq_qparams gives for the two ends of a range.

    Args:
        high: upper end, a float32 number.
        low: lower end, a float32 number.
        spec: the grid.
    Returns:
        scale and zero point, float32 numbers.
    """
    # Written so that NaN stays NaN, as it does in torch.clamp.
    high, low = 0.0 if high < 0.0 else high, 0.0 if low > 0.0 else low
    if spec.symmetric:
        return symmetric_scale(high, low, spec), 0.0
    scale = to_float32(to_float32(high - low) / spec.steps)
    if scale < SMALLEST_SCALE:
        return 1.0, float(spec.qmin)
    return scale, round_half_even(to_float32(spec.qmin - to_float32(low / scale)))
