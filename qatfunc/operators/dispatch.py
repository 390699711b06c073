"""Which of two ways a weighted operator is computed: fused, or as plain functions."""

import torch
from torch import Tensor

from qatfunc.composed import composed_op
from qatfunc.fused import fused_op
from qatfunc.linear_maps.bilinear import Bilinear
from qatfunc.numerics.autocast import exact_types
from qatfunc.numerics.concrete import traced
from qatfunc.params import Params
from qatfunc.spec import LayerSpec


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
