"""The grid of an activation as the fused operator uses it, and quantizing to it in place."""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.numbers import Number, reads_cheaply
from qatfunc.params import Clip
from qatfunc.scalars import ulq_scale
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import ulq_qparams


class Grid(NamedTuple):
    """Integers from low to high, counted from the zero point, in steps of scale."""

    scale: Tensor
    low: Number
    high: Number


def activation_grid(clip: Clip, spec: ActivationSpec) -> Grid:
    """Return the grid of a range.

    Args:
        clip: a valid range, scalars.
        spec: width and symmetry.
    Returns:
        the grid, whose values are those of ulq.ulq_qparams.
    """
    if not reads_cheaply(clip.max):
        scale, zero_point = ulq_qparams(clip, spec)
        return Grid(scale, spec.qmin - zero_point, spec.qmax - zero_point)
    step, zero = ulq_scale(clip.max.item(), clip.min.item(), spec)
    return Grid(clip.max.new_full((), step), spec.qmin - zero, spec.qmax - zero)


def clamped_(x: Tensor, grid: Grid) -> Tensor:
    """Clamp a tensor to a grid's ends, in place."""
    return x.clamp_(grid.low, grid.high)  # type: ignore[arg-type]


def to_integers(x: Tensor, grid: Grid) -> Tensor:
    """Return clamp(round(x / scale), low, high) in one new tensor of x's memory format."""
    return clamped_(torch.div(x, grid.scale).round_(), grid)
