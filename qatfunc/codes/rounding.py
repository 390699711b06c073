"""Rounding to a result's codes, straight through; ReLU and ReLU6 as limits of the codes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.codes.grids import Output
from qatfunc.params import QParams
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import with_ulq_gradients


class Limits(NamedTuple):
    """The range to which an activation limits a result: static numbers."""

    low: float = -math.inf
    high: float = math.inf


UNLIMITED = Limits()
RELU = Limits(low=0.0)
RELU6 = Limits(low=0.0, high=6.0)


def centered(x: Tensor, qparams: QParams) -> Tensor:
    """Return the integers of a quantized value.

    n = round(x / scale)

    Args:
        x: float32, n * scale.
        qparams: its scale and zero point.
    Returns:
        float32 of x's shape, n = code - zero_point.
    Gradient: none.
    """
    return torch.round(x.detach() / qparams.scale)


def round_to(
    values: Tensor,
    y: Tensor,
    output: Output,
    *,
    spec: ActivationSpec,
    limits: Limits = UNLIMITED,
) -> Tensor:
    """Round to a result's codes and return the number that they represent.

    n = clamp(round(values), qmin - zero_point, qmax - zero_point),
    then clamped to [round(low / scale), round(high / scale)];  the result is n * scale

    Rounding is monotone, so these limits of n are the limits of the result.

    Args:
        values: float32, the exact result over scale.
        y: float32 of the same shape, the float result with its derivatives.
        output: range and grid of the result.
        spec: integer range of its codes.
        limits: those of an activation; nothing is saved for them beyond a mask.
    Returns:
        float32 n * scale.
    Gradient: that of ulq.ulq_quantize at y; 0 to y where an activation limits it.
    Source: docs/semantics.md, 7b.
    """
    scale, zero_point = output.qparams
    n = torch.clamp(torch.round(values.detach()), spec.qmin - zero_point, spec.qmax - zero_point)
    if limits != UNLIMITED:
        low, high = (torch.round(torch.full_like(scale, end) / scale) for end in limits)
        n, y = torch.clamp(n, low, high), torch.clamp(y, *limits)
    return with_ulq_gradients(n, y, output.clip, qparams=output.qparams, spec=spec) * scale
