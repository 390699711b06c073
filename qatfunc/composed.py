"""Quantized operators composed of plain functions, which all transforms of torch.func support.

They compute on integer-valued floats, whose sums are exact, in any order, below 2^24 in float32 and
2^53 in float64.
"""

import torch
from torch import Tensor

from qatfunc.arq import arq_quantize
from qatfunc.linear_maps.bilinear import Bilinear
from qatfunc.linear_maps.channels import output_channels, per_output, to_full_rank
from qatfunc.lsq import lsq_quantize
from qatfunc.params import Clip, Params, QParams
from qatfunc.spec import ActivationSpec, LayerSpec, WeightSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import ulq_quantize


def composed_op(op: Bilinear, x: Tensor, params: Params, spec: LayerSpec) -> Tensor:
    """Compute an operator with a weight on integers, and rescale the sums.

    y = float32(op(q_x, q_w) + round(bias / (scale_x * scale_w))) * (scale_x * scale_w)

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
    bias = params.get("bias")
    bias = None if bias is None else op.per_channel(bias)
    clip = params.get("clip")
    if clip is None or spec.weight is None:
        return _partly_quantized(op, x, params, spec, bias)
    q_weight, w_qparams = _quantize_weight(op, params, spec.weight)
    scale_w = per_output(w_qparams.scale, transposed=op.transposed, groups=op.groups)
    q_x, x_qparams = ulq_quantize(x, clip, spec.activation)
    rescale = x_qparams.scale * op.per_channel(scale_w)
    if spec.wide:
        q_x, q_weight = q_x.to(torch.float64), q_weight.to(torch.float64)
    acc = _add_bias(op(q_x, q_weight), bias, rescale).to(torch.float32)
    adopted = params.get("adopted")
    if adopted is not None:
        natural, adjusted = (op.per_channel(value) for value in adopted)
        rescale = straight_through(torch.where(rescale == natural, adjusted, rescale), rescale)
    return acc * rescale


def composed_matmul(
    a: Tensor, b: Tensor, clips: tuple[Clip, Clip] | None, spec: ActivationSpec
) -> Tensor:
    """Multiply two activations on integers, and rescale the sums.

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


def _partly_quantized(
    op: Bilinear, x: Tensor, params: Params, spec: LayerSpec, bias: Tensor | None
) -> Tensor:
    """Compute in float32 where the input or the weight is not quantized."""
    weight = params["weight"]
    if params.get("clip") is not None:
        q_x, x_qparams = ulq_quantize(x, params["clip"], spec.activation)
        x = q_x * x_qparams.scale
    if spec.weight is not None:
        integers, qparams = _quantize_weight(op, params, spec.weight)
        weight = integers * qparams.scale
    y = op(x, weight)
    return y if bias is None else y + bias


def _add_bias(acc: Tensor, bias: Tensor | None, rescale: Tensor) -> Tensor:
    # Rounding does not change an exact sum; it corrects convolutions whose algorithm is inexact on
    # integers (Winograd). Adding +0.0 where there is no bias turns -0.0 into +0.0.
    exact = torch.round(acc.detach())
    if bias is None:
        return straight_through(exact + 0.0, acc)
    ratio = bias / rescale
    rounded = torch.round(ratio.detach()) + 0.0
    return straight_through(exact + rounded.to(acc.dtype), acc + ratio.to(acc.dtype))


def _quantize_weight(op: Bilinear, params: Params, spec: WeightSpec) -> tuple[Tensor, QParams]:
    weight = params["weight"]
    scale = params.get("weight_scale")
    if scale is None:
        return arq_quantize(weight, spec, transposed=op.transposed, groups=op.groups)
    full = to_full_rank(scale, weight, transposed=op.transposed, groups=op.groups)
    channels = output_channels(weight, transposed=op.transposed, groups=op.groups)
    return lsq_quantize(weight, full, spec, channels=channels)
