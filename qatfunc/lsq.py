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
    ratio = weight.detach() / fixed
    rest = torch.where(
        ratio > spec.qmax,
        torch.full_like(ratio, spec.qmax),
        torch.where(ratio < spec.qmin, torch.full_like(ratio, spec.qmin), integers - ratio),
    )
    damping = 1.0 / math.sqrt(weight.numel() / channels * spec.qmax)
    surrogate = weight / fixed + scale * (rest * damping / fixed)
    return straight_through(integers, surrogate), qparams
