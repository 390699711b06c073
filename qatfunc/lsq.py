"""LSQ, a weight scale that is trained beside the weight."""

import math

import torch
from torch import Tensor

from qatfunc.affine import quantize_centered
from qatfunc.params import QParams
from qatfunc.spec import IntSpec
from qatfunc.ste import straight_through


def lsq_quantize(
    weight: Tensor, scale: Tensor, spec: IntSpec, *, channels: int
) -> tuple[Tensor, QParams]:
    """Quantize a weight by a trained scale to integer-valued float32 that trains.

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
        the size of one output channel, for one scale a tensor too (as recorded).
    Source: docs/semantics.md, 5; Esser et al. 2020, arXiv:1902.08153; AMCT ulq_retrain.
    """
    fixed = scale.detach()
    qparams = QParams(fixed, torch.zeros_like(fixed))
    integers = quantize_centered(weight.detach(), qparams, spec)
    slope = lsq_slope(weight.detach(), fixed, spec, channels=channels)
    surrogate = weight / fixed + scale * (slope / fixed)
    return straight_through(integers, surrogate), qparams


def lsq_slope(weight: Tensor, scale: Tensor, spec: IntSpec, *, channels: int) -> Tensor:
    """Return what each weight's gradient counts in that of its scale: r / sqrt(elements * qmax).

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
    rest = torch.where((ratio > spec.qmax) | (ratio < spec.qmin), integers, integers - ratio)
    return rest * (1.0 / math.sqrt(weight.numel() / channels * spec.qmax))
