"""Whether an operator is computed by the fused autograd Function or by plain functions."""

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
    """Compute an operator with a weight on integers, and rescale the sums.

    y = float32(op(q_x, q_w) + round(bias / (scale_x * scale_w))) * (scale_x * scale_w)

    There are two implementations with the same bits: an autograd Function that saves no more for
    backward than the float operator, and a composition of plain functions.

    Args:
        op: the operator.
        x: float32 input.
        params: see qatfunc.operators.
        spec: the grids.
    Returns:
        float32 output. Without params["clip"] the input is not quantized, and without spec.weight
        the weight is not; the operator then computes in float32.
    Gradient: ULQ's for x and clip, ARQ's or LSQ's for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    with exact_types(x):
        clip = params.get("clip")
        if clip is None or spec.weight is None or spec.wide or not _can_fuse(x, params):
            return composed_op(op, x, params, spec)
        return fused_op(op, x, params, weight=spec.weight, activation=spec.activation)


def _can_fuse(x: Tensor, params: Params) -> bool:
    """Whether the fused operator supports the operands, and nothing is being traced."""
    # torch.compile around torch.func.grad silently drops the backward of an autograd Function.
    if traced() or x.is_meta or "adopted" in params:
        return False
    weight, (high, low) = params["weight"], params["clip"]
    on_cpu = x.is_cpu  # comparing devices is slower
    for t in (weight, high, low, params.get("bias"), params.get("weight_scale")):
        if t is None:
            continue
        if t.dtype != torch.float32 or not (t.is_cpu if on_cpu else t.device == x.device):
            return False
    return weight.numel() > 0 and high.ndim == low.ndim == 0
