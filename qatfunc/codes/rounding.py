"""Rounding to a result's codes, straight through; ReLU and ReLU6 as limits of the codes.

Eager code saves one float tensor, the float result, and computes backward in few passes
(fused.range_gradients). Under transforms, torch.compile and for second derivatives, plain functions
compute the same.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from qatfunc.codes.grids import Output
from qatfunc.fused.grid import Grid
from qatfunc.fused.range_gradients import input_gradients, inside, quantize_again
from qatfunc.numerics.concrete import number, traced
from qatfunc.numerics.torch_internals import (
    apply_untransformed,
    forward_ad_is_active,
    transforms_are_active,
)
from qatfunc.params import Clip, QParams
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
    return torch.div(x.detach(), qparams.scale).round_()


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
        limits: those of an activation; nothing is saved for them.
    Returns:
        float32 n * scale.
    Gradient: that of ulq.ulq_quantize at y; 0 to y where an activation limits it.
    Source: docs/semantics.md, 7b.
    """
    static = spec, limits
    tensors = y, *output.clip, *output.qparams
    if transforms_are_active() or forward_ad_is_active() or traced():
        return _composed(static, values, *tensors)
    rounded: Tensor = apply_untransformed(_Rounded, static, values, *tensors)
    return rounded


_Static = tuple[ActivationSpec, Limits]


class _Rounded(Function):
    """((spec, limits), values, y, clip.max, clip.min, scale, zero_point) -> n * scale."""

    @staticmethod
    def forward(ctx: Any, static: _Static, values: Tensor, *tensors: Tensor) -> Tensor:
        ctx.static = static
        ctx.save_for_backward(*tensors)
        *_, scale, zero_point = tensors
        n = torch.round(values)
        for low, high in _ends(static, QParams(scale, zero_point)):
            n.clamp_(number(low), number(high))  # type: ignore[arg-type]
        return n.add_(0.0).mul_(scale)  # +0.0 for -0.0

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:5]
        if torch.is_grad_enabled() or transforms_are_active():
            found: Sequence[Tensor | None] = _composed_backward(ctx.static, g, ctx.saved_tensors)
        else:
            found = _few_passes(ctx.static, g, ctx.saved_tensors, of_range=any(needed[1:]))
        kept = [one if need else None for one, need in zip(found, needed, strict=True)]
        return None, None, *kept, None, None


def _few_passes(
    static: _Static, g: Tensor, tensors: Sequence[Tensor], *, of_range: bool
) -> Sequence[Tensor | None]:
    spec, limits = static
    y, high, low, scale, zero_point = tensors
    limited = y if limits == UNLIMITED else torch.clamp(y, *limits)
    zero = number(zero_point)
    grid = Grid(scale, spec.qmin - zero, spec.qmax - zero)
    quantized = quantize_again(limited, Clip(high, low), grid, spec)
    own = torch.empty_like(quantized.rounding).copy_(g)  # overwritten below
    found: Sequence[Tensor | None] = (inside(own, quantized), None, None)
    if of_range:
        found = input_gradients(own, quantized)
    if limits == UNLIMITED or found[0] is None:
        return found
    return found[0].masked_fill(limited != y, 0.0), *found[1:]


def _composed(static: _Static, values: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
    high, low, *qparams = tensors
    grid = QParams(*qparams)
    n = torch.round(values.detach())
    for ends in _ends(static, grid):
        n = torch.clamp(n, *ends)
    limited = y if static[1] == UNLIMITED else torch.clamp(y, *static[1])
    rounded = with_ulq_gradients(n, limited, Clip(high, low), qparams=grid, spec=static[0])
    return rounded * grid.scale


def _composed_backward(static: _Static, g: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    y, high, low, *qparams = tensors

    def forward(*leaves: Tensor) -> Tensor:
        return _composed(static, y.detach() / qparams[0], *leaves, *qparams)

    gradients: Sequence[Tensor] = torch.func.vjp(forward, y, high, low)[1](g)
    return gradients


def _ends(static: _Static, qparams: QParams) -> list[tuple[Tensor, Tensor]]:
    """Return the smallest and largest n of the codes, and those of the limits."""
    (spec, limits), (scale, zero_point) = static, qparams
    ends = [(spec.qmin - zero_point, spec.qmax - zero_point)]
    if limits != UNLIMITED:
        low, high = (torch.round(torch.full_like(scale, end) / scale) for end in limits)
        ends.append((low, high))
    return ends
