"""The gradients of ULQ and LSQ as sums in float64, written from the formulas alone.

Which side of the range an element is on, and what it is rounded to, is decided in float32, as in
the forward; everything after that is float64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class UlqGradients(NamedTuple):
    x: Tensor
    clip_max: Tensor
    clip_min: Tensor


def ulq(
    x: Tensor,
    clip: tuple[Tensor, Tensor],
    grid: tuple[Tensor, Tensor],
    upstream: Tensor,
    *,
    bits: int,
) -> UlqGradients:
    """Gradients for an upstream of y = n * scale; clip is (max, min), grid (scale, zero point)."""
    (clip_max, clip_min), (scale, zero_point) = clip, grid
    above = x > scale * (2 ** (bits - 1) - 1 - zero_point)
    below = x < scale * (-(2 ** (bits - 1)) - zero_point)
    v = (x / scale).double()
    v[above] = (clip_max / scale).double()
    v[below] = (clip_min / scale).double()
    error = (torch.round(v) - v) / (2**bits - 1)
    g = upstream.double()
    return UlqGradients(
        x=torch.where(above | below, 0.0, g),
        clip_max=(g * (error + above)).sum(),
        clip_min=(g * (below.double() - error)).sum(),
    )


def lsq_scale(
    weight: Tensor, scale: Tensor, upstream: Tensor, *, bits: int, elements: int
) -> Tensor:
    """Gradient of the scale, of scale's shape, with respect to y = q * scale."""
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ratio = (weight / scale).double()
    slope = torch.round(ratio) - ratio
    slope[ratio > qmax] = qmax
    slope[ratio < qmin] = qmin
    terms = upstream.double() * slope / math.sqrt(elements * qmax)
    return terms.sum_to_size(scale.shape)
