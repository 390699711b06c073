"""Operators on integers in floats: which way a weighted one is computed, and the product of two."""

import torch
from torch import Tensor

from qatfunc.bilinear import Bilinear
from qatfunc.composition import composed_op
from qatfunc.exact_types import exact_types
from qatfunc.fused import fused_op
from qatfunc.numbers import traced
from qatfunc.params import Clip, Params
from qatfunc.spec import ActivationSpec, LayerSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import ulq_quantize


def quantized_op(op: Bilinear, x: Tensor, params: Params, spec: LayerSpec) -> Tensor:
    """Compute a weighted operator on integers and scale the sums.

    y = float32(op(q_x, q_w) + round(bias / (scale_x * scale_w))) * (scale_x * scale_w)

    Two ways lead to the same bits: one autograd Function, which keeps no more for the backward
    pass than the float operator does, and a composition of plain functions.

    Args:
        op: the operator.
        x: float32 input.
        params: see qatfunc.operators.
        spec: the grids.
    Returns:
        float32 output; without params["clip"], or spec.weight, what is not quantized is float.
    Gradient: ULQ's for x and clip, ARQ's or LSQ's for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    with exact_types(x):
        clip = params.get("clip")
        if clip is None or spec.weight is None or spec.wide or not _can_fuse(x, params):
            return composed_op(op, x, params, spec)
        return fused_op(op, x, params, weight=spec.weight, activation=spec.activation)


def _can_fuse(x: Tensor, params: Params) -> bool:
    """Whether the operands are what the fused operator takes, and nobody wants to look inside."""
    # Compiling torch.func.grad of an autograd Function, besides, drops its backward, silently.
    if traced() or x.is_meta or "adopted" in params:
        return False
    weight, (high, low) = params["weight"], params["clip"]
    on_cpu = x.is_cpu  # asked first, because naming a device takes longer
    for t in (weight, high, low, params.get("bias"), params.get("weight_scale")):
        if t is None:
            continue
        if t.dtype != torch.float32 or not (t.is_cpu if on_cpu else t.device == x.device):
            return False
    return weight.numel() > 0 and high.ndim == low.ndim == 0


def quantized_matmul(
    a: Tensor, b: Tensor, clips: tuple[Clip, Clip] | None, spec: ActivationSpec
) -> Tensor:
    """Multiply two activations on integers and scale the sums.

    y = float32(q_a @ q_b) * (scale_a * scale_b)

    Args:
        a: float32 (*, m, k).
        b: float32 (*, k, n).
        clips: their ranges; None for a float32 product.
        spec: the grid of both.
    Returns:
        float32 (*, m, n).
    Gradient: ULQ's for a, b and the clips.
    Source: docs/semantics.md, 7.
    """
    with exact_types(a):
        if clips is None:
            return torch.matmul(a, b)
        (q_a, a_qparams), (q_b, b_qparams) = (
            ulq_quantize(x, clip, spec) for x, clip in zip((a, b), clips, strict=True)
        )
        if spec.bits > 8:
            q_a, q_b = q_a.to(torch.float64), q_b.to(torch.float64)
        acc = torch.matmul(q_a, q_b)
        exact = straight_through(torch.round(acc.detach()) + 0.0, acc)
        return exact.to(torch.float32) * (a_qparams.scale * b_qparams.scale)
