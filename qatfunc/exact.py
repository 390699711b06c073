"""Operators on integers in floats: the sums are exact, in any order, below 2^24 (or 2^53)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qatfunc.arq import arq_quantize
from qatfunc.channels import per_output, to_full_rank
from qatfunc.lsq import lsq_quantize
from qatfunc.params import Clip, QParams
from qatfunc.spec import ActivationSpec, LayerSpec, WeightSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import ulq_quantize

Params = Mapping[str, Any]


def quantized_op(
    op: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    channel_axis: int,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Compute a weighted operator on integers and scale the sums.

    y = float32(op(q_x, q_w) + round(bias / (scale_x * scale_w))) * (scale_x * scale_w)

    Args:
        op: takes the input and the weight, both integer-valued.
        x: float32 input.
        params: see qatfunc.operators.
        spec: the grids.
        channel_axis: of the output's channels, 1 or -1.
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        float32 output; without params["clip"], or spec.weight, what is not quantized is float.
    Gradient: ULQ's for x and clip, ARQ's or LSQ's for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    trailing = (1,) * (x.ndim - 2) if channel_axis == 1 else ()
    bias = params.get("bias")
    bias = None if bias is None else bias.reshape(-1, *trailing)
    clip = params.get("clip")
    if clip is None or spec.weight is None:
        return _partly_quantized(op, x, params, spec, bias, transposed=transposed, groups=groups)
    q_weight, w_qparams = _quantize_weight(
        params, spec.weight, transposed=transposed, groups=groups
    )
    scale_w = per_output(w_qparams.scale, transposed=transposed, groups=groups)
    q_x, x_qparams = ulq_quantize(x, clip, spec.activation)
    rescale = x_qparams.scale * scale_w.reshape(-1, *trailing)
    if spec.wide:
        q_x, q_weight = q_x.to(torch.float64), q_weight.to(torch.float64)
    acc = _add_bias(op(q_x, q_weight), bias, rescale).to(torch.float32)
    adopted = params.get("adopted")
    if adopted is not None:
        natural, moved = (value.reshape(-1, *trailing) for value in adopted)
        rescale = straight_through(torch.where(rescale == natural, moved, rescale), rescale)
    return acc * rescale


def _partly_quantized(
    op: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    bias: Tensor | None,
    *,
    transposed: bool,
    groups: int,
) -> Tensor:
    """Compute in float where the input, the weight or both are not quantized."""
    weight = params["weight"]
    if params.get("clip") is not None:
        q_x, x_qparams = ulq_quantize(x, params["clip"], spec.activation)
        x = q_x * x_qparams.scale
    if spec.weight is not None:
        integers, qparams = _quantize_weight(
            params, spec.weight, transposed=transposed, groups=groups
        )
        weight = integers * qparams.scale
    y = op(x, weight)
    return y if bias is None else y + bias


def _add_bias(acc: Tensor, bias: Tensor | None, rescale: Tensor) -> Tensor:
    # Rounding an exact sum changes nothing; it repairs convolutions that are not exact on
    # integers (Winograd forms). Adding +0.0 where there is no bias turns -0.0 into +0.0.
    exact = torch.round(acc.detach())
    if bias is None:
        return straight_through(exact + 0.0, acc)
    ratio = bias / rescale
    rounded = torch.round(ratio.detach()) + 0.0
    return straight_through(exact + rounded.to(acc.dtype), acc + ratio.to(acc.dtype))


def _quantize_weight(
    params: Params, spec: WeightSpec, *, transposed: bool, groups: int
) -> tuple[Tensor, QParams]:
    weight = params["weight"]
    scale = params.get("weight_scale")
    if scale is None:
        return arq_quantize(weight, spec, transposed=transposed, groups=groups)
    full = to_full_rank(scale, weight, transposed=transposed, groups=groups)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return lsq_quantize(weight, full, spec, channels=channels)


def quantized_matmul(
    a: Tensor, b: Tensor, clips: tuple[Clip, Clip], spec: ActivationSpec
) -> Tensor:
    """Multiply two activations on integers and scale the sums.

    y = float32(q_a @ q_b) * (scale_a * scale_b)

    Args:
        a: float32 (*, m, k).
        b: float32 (*, k, n).
        clips: their ranges.
        spec: the grid of both.
    Returns:
        float32 (*, m, n).
    Gradient: ULQ's for a, b and the clips.
    Source: docs/semantics.md, 7.
    """
    (q_a, a_qparams), (q_b, b_qparams) = (
        ulq_quantize(x, clip, spec) for x, clip in zip((a, b), clips, strict=True)
    )
    if spec.bits > 8:
        q_a, q_b = q_a.to(torch.float64), q_b.to(torch.float64)
    acc = torch.matmul(q_a, q_b)
    exact = straight_through(torch.round(acc.detach()) + 0.0, acc)
    return exact.to(torch.float32) * (a_qparams.scale * b_qparams.scale)
