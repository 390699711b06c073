"""LSQ: weight scales that are trained together with the weight."""

import math

import torch
from torch import Tensor

from qatfunc.affine import quantize_centered
from qatfunc.limits import LARGEST_SCALE, SMALLEST_SCALE
from qatfunc.params import QParams
from qatfunc.spec import IntSpec
from qatfunc.ste import replace_value, straight_through


def valid_scales(stored: Tensor, *, reciprocal: bool = False) -> Tensor:
    """Return which trained weight scales are valid: SMALLEST_SCALE <= scale <= LARGEST_SCALE.

    Args:
        stored: float32, the trained parameter.
        reciprocal: whether the parameter is 1 / scale.
    Returns:
        bool of stored's shape.
    """
    stored = stored.detach()
    scale = 1.0 / stored if reciprocal else stored
    return (scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE)


def resolve_scale(stored: Tensor, previous: Tensor, *, reciprocal: bool = False) -> Tensor:
    """Replace each trained weight scale that is invalid by its last valid value.

    Args:
        stored: float32, the trained parameter.
        previous: float32 of stored's shape, its last valid values.
        reciprocal: whether the parameter is 1 / scale.
    Returns:
        float32 of stored's shape; `previous` of the next call.
    Gradient: straight through to stored, also where a scale was replaced; 0 where stored is not
        finite.
    Source: docs/semantics.md, 5.

    >>> resolve_scale(torch.tensor([0.5, -0.1]), torch.tensor([0.4, 0.2]))
    tensor([0.5000, 0.2000])
    """
    valid = valid_scales(stored, reciprocal=reciprocal)
    return replace_value(stored, torch.where(valid, stored.detach(), previous))


def lsq_quantize(
    weight: Tensor, scale: Tensor, spec: IntSpec, *, channels: int
) -> tuple[Tensor, QParams]:
    """Quantize a weight by a trained scale to integer-valued float32, with LSQ's gradients.

    q = clamp(round(weight / scale), qmin, qmax);  the weight used is q * scale

    Args:
        weight: float32, any shape.
        scale: float32, positive, of weight's rank and broadcastable to it.
        spec: the grid.
        channels: output channels of the weight.
    Returns:
        q, float32 of weight's shape, and its QParams.
    Raises:
        ValueError: scale does not broadcast to weight's shape.
    Gradient: with respect to y = q * scale and its upstream g,
        weight: g;  scale: sum(g * r) / sqrt(elements * qmax), where r is
        round(w/s) - w/s inside the grid, qmax above it and qmin below it, and elements is
        the size of one output channel, also with one scale per tensor (as the reference has it).
    Source: docs/semantics.md, 5; Esser et al. 2020, arXiv:1902.08153; AMCT ulq_retrain.
    """
    fixed = scale.detach()
    qparams = QParams(fixed, torch.zeros_like(fixed))
    integers = quantize_centered(weight.detach(), qparams, spec)
    slope = lsq_slope(weight.detach(), fixed, spec, channels=channels)
    surrogate = weight / fixed + scale * (slope / fixed)
    return straight_through(integers, surrogate), qparams


def lsq_slope(weight: Tensor, scale: Tensor, spec: IntSpec, *, channels: int) -> Tensor:
    """Return the derivatives of quantized weights with respect to their scale, as LSQ scales them.

    r / sqrt(elements * qmax)

    Args:
        weight: float32, any shape.
        scale: float32, positive, broadcastable to weight.
        spec: the grid.
        channels: output channels of the weight.
    Returns:
        float32 of weight's shape; for r and elements see lsq_quantize.
    """
    ratio = weight / scale
    integers = torch.clamp(torch.round(ratio), spec.qmin, spec.qmax)
    residual = torch.where((ratio > spec.qmax) | (ratio < spec.qmin), integers, integers - ratio)
    return residual * (1.0 / math.sqrt(weight.numel() / channels * spec.qmax))
