"""The grid of an activation as the fused operator uses it, and quantizing to it in place.

Numbers are Python floats on a CPU, where operators on one-element tensors cost more than small
layers do and bounds given as tensors make torch.clamp ten times slower. On other devices they
stay tensors: reading them would stall the device, and dividing by a float multiplies by its
reciprocal there.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.params import Clip
from qatfunc.scalars import ulq_scale
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import ulq_qparams

Number = float | Tensor


class Grid(NamedTuple):
    """Integers from low to high, counted from the zero point, in steps of scale."""

    scale: Number
    low: Number
    high: Number


def reads_cheaply(x: Tensor) -> bool:
    """Whether reading a number off a tensor costs next to nothing."""
    return x.is_cpu


def number(x: Tensor) -> Number:
    """Return a one-element tensor as a Python float where that costs next to nothing."""
    return x.item() if reads_cheaply(x) else x


def activation_grid(clip: Clip, spec: ActivationSpec) -> Grid:
    """Return the grid of a range.

    Args:
        clip: a valid range, scalars.
        spec: width and symmetry.
    Returns:
        the grid, whose values are those of ulq.ulq_qparams.
    """
    scale: Number
    zero_point: Number
    if reads_cheaply(clip.max):
        scale, zero_point = ulq_scale(clip.max.item(), clip.min.item(), spec)
    else:
        scale, zero_point = ulq_qparams(clip, spec)
    return Grid(scale, spec.qmin - zero_point, spec.qmax - zero_point)


def to_integers(x: Tensor, scale: Number, low: Number, high: Number) -> Tensor:
    """Return clamp(round(x / scale), low, high) in one new tensor of x's memory format."""
    return torch.div(x, scale).round_().clamp_(low, high)  # type: ignore[arg-type]
