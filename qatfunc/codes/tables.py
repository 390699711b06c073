"""Scales for which a function of one value has the same result on every engine; its table.

    code = clamp(round(f((q - zero_x) * scale_x) / scale_y) + zero_y, qmin, qmax)

Hypothesis. For all codes q, f(x) / scale_y in float64 is more than 8 ulps of float32 away from
every tie (halfway between two codes) inside the range. The ulps are those of the larger of |f(x)|
and the intermediate results whose rounding errors it contains (functions.Activation.size).

Claim. Every engine whose f(x) in float32 has an error of less than 7 such ulps, and whose quotient
is rounded once, gives the same code as float64.

Why. The quotient's error is at most half an ulp of f(x), over scale_y. Together these errors do not
move a number across a tie that is farther away.

`fit_table` adjusts scale_y by the fewest ulps that satisfy the hypothesis. Where there is none, the
table itself can be written into a model. PReLU needs no margin: a product and a quotient, each
rounded once, have one result in IEEE 754.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qatfunc.codes.functions import Activation
from qatfunc.codes.grids import Array, ValueGrid
from qatfunc.codes.ties import adjusted, nearest_first, tie_distance

_MARGIN = 8 * 2.0**-23
"""8 ulps, of 1."""


class FittedTable(NamedTuple):
    """A function of codes, and the scale of its result."""

    codes: Array
    """int16 (2^bits,): the code of the result for each code, in ascending order."""
    scale: np.float32
    """The adjusted scale of the result; the natural one if not proven."""
    ulps: int
    """By how many it differs from the natural one."""
    proven: bool
    """Whether no code is near a tie."""


def fit_table(
    function: Activation, x: ValueGrid, y: ValueGrid, *, max_ulps: int = 1024
) -> FittedTable:
    """Find the nearest scale of the result for which no code is near a tie.

    Args:
        function: of one value.
        x: the value's grid.
        y: the result's; its zero point stays.
        max_ulps: largest adjustment of its scale.
    Returns:
        the table for the adjusted scale, or for the natural one if none is near enough.
    Raises:
        ValueError: max_ulps is negative.
    """
    values = torch.from_numpy(_dequantized(x))
    results, size = function(values).numpy(), function.size(values).numpy()
    margin = _MARGIN * np.maximum(np.abs(results), size)
    for ulps in nearest_first(max_ulps):
        scales = adjusted(y.scale, ulps)
        scales = np.where(scales > 0, scales, np.nan)[:, None]
        near = tie_distance(results / scales, y) <= margin / scales
        fits = np.flatnonzero(~near.any(axis=1) & np.isfinite(scales[:, 0]))
        if fits.size:
            scale = np.float32(scales[fits[0], 0])
            return FittedTable(_codes(results / float(scale), y), scale, int(ulps[fits[0]]), True)
    return FittedTable(_codes(results / y.scale, y), np.float32(y.scale), 0, False)


def prelu_table(weight: Array, x: ValueGrid, y: ValueGrid) -> Array:
    """Compute PReLU for every code, with one result on every engine.

    code = clamp(round(float32(float32(x * weight) / scale_y)) + zero_y), without the product
    where x >= 0

    Args:
        weight: float32 (channels,), slopes of negative values.
        x: the value's grid.
        y: the result's.
    Returns:
        int16 (channels, 2^bits).
    """
    values = _dequantized(x).astype(np.float32)
    with np.errstate(over="ignore"):
        results = np.where(values < 0, values * weight[:, None], values)
        return _codes(results / np.float32(y.scale), y)


def table_of(function: Activation, x: Tensor, scale: Tensor) -> Tensor:
    """Round a function of float32 numbers, computed in float64.

    Args:
        function: of one value.
        x: float32.
        scale: of the result.
    Returns:
        float32 of x's shape, round(f(x) / scale), not clamped.
    Gradient: none.
    """
    return torch.round(function(x.detach().double()) / scale.double()).float()


def _dequantized(x: ValueGrid) -> Array:
    """float64 (2^bits,): the float32 numbers that the codes represent."""
    return (x.integers.astype(np.float32) * np.float32(x.scale)).astype(np.float64)


def _codes(values: Array, y: ValueGrid) -> Array:
    return np.clip(np.rint(values) + y.zero_point, y.spec.qmin, y.spec.qmax).astype(np.int16)
