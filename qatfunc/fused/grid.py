"""The grid of an activation as the fused operator uses it, and quantizing to it in place."""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.numerics.arithmetic import FLOATS, to_float32
from qatfunc.numerics.concrete import Number, reads_cheaply
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import range_scale, ulq_qparams

_FEW_VALUES = 1024
"""Up to this many values, finding the extremes costs less than an unnecessary clamp and mask."""


class Grid(NamedTuple):
    """The integers from low to high, relative to the zero point, and their scale."""

    scale: Tensor
    low: Number
    high: Number
    clips: bool = True
    """Whether the tensor to quantize may have values outside the grid."""


def activation_grid(x: Tensor, clip: Clip, spec: ActivationSpec) -> Grid:
    """Return the grid of a range.

    Args:
        x: the tensor to quantize.
        clip: a valid range, scalars.
        spec: width and symmetry.
    Returns:
        the grid of ulq.ulq_qparams.
    """
    if not reads_cheaply(clip.max):
        scale, zero_point = ulq_qparams(clip, spec)
        return Grid(scale, spec.qmin - zero_point, spec.qmax - zero_point)
    step, zero = range_scale(clip.max.item(), clip.min.item(), spec, arithmetic=FLOATS)
    low, high = spec.qmin - zero, spec.qmax - zero
    return Grid(
        clip.max.new_full((), step), low, high, clips=not _holds(x, step * low, step * high)
    )


def _holds(x: Tensor, low: float, high: float) -> bool:
    """Whether a small x has no NaN and lies within low and high, both rounded to float32."""
    if not 0 < x.numel() <= _FEW_VALUES:
        return False
    least, most = torch.aminmax(x)
    return least.item() >= to_float32(low) and most.item() <= to_float32(high)


def clamped_(x: Tensor, grid: Grid) -> Tensor:
    """Clamp a tensor to a grid's ends, in place."""
    return x.clamp_(grid.low, grid.high)  # type: ignore[arg-type]


def to_integers(x: Tensor, grid: Grid) -> Tensor:
    """Return clamp(round(x / scale), low, high), allocating one tensor of x's memory format."""
    integers = torch.div(x, grid.scale).round_()
    return clamped_(integers, grid) if grid.clips else integers
