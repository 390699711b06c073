"""Quantized operators: pure functions of (x, params, spec) that sum integers exactly.

    acc = op(q_x - zero_point_x, q_w) + round(bias / (scale_x * scale_w))
    y   = float32(acc) * (scale_x * scale_w)

The operator runs on integer-VALUED floats. While its sums stay below 2^24 they are exact in any
order, so an int32 accumulator, torch and ONNX Runtime's float kernels give the same bits. The
bias is added afterwards, in one rounding, as a conversion of the int32 sum to float would be.

params is a dict, a pytree that can be differentiated, optimised and saved as it is:
    "weight"        float32, always
    "bias"          float32 (out,), optional
    "clip"          Clip, optional; without it activations pass unquantized (calibration)
    "weight_scale"  float32 (out,) or (1,), optional; a trained scale (LSQ) instead of ARQ's
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qatfunc.arq import arq_quantize
from qatfunc.channels import per_output, to_full_rank
from qatfunc.lsq import lsq_quantize
from qatfunc.params import QParams
from qatfunc.spec import LayerSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import ulq_quantize

Params = Mapping[str, Any]
Ints = int | Sequence[int]


def linear(x: Tensor, params: Params, spec: LayerSpec) -> Tensor:
    """Quantized torch.nn.functional.linear.

    Args:
        x: float32 (*, in), rank 2 or more.
        params: weight (out, in) and the rest, see the module.
        spec: the grids.
    Returns:
        float32 (*, out).
    Raises:
        TypeError: x or weight is not float32.
        ValueError: a rank does not fit.
    Gradient: ULQ's for x and clip, ARQ's (or LSQ's) for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, weight_rank=2, x_ranks=range(2, 65), name="linear")
    return _quantized(F.linear, x, params, spec, channel_axis=-1)


def conv2d(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Quantized torch.nn.functional.conv2d.

    Args:
        x: float32 (N, in, H, W).
        params: weight (out, in/groups, kH, kW) and the rest, see the module.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too; padding counts as the integer 0.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, H', W').
    Raises:
        TypeError: x or weight is not float32.
        ValueError: a rank does not fit.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    op = partial(F.conv2d, stride=stride, dilation=dilation, groups=groups)
    return _conv(op, x, params, spec, padding=padding, dilation=dilation, spatial=2)


def conv3d(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Quantized torch.nn.functional.conv3d.

    Args:
        x: float32 (N, in, D, H, W).
        params: weight (out, in/groups, kD, kH, kW) and the rest, see the module.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, D', H', W').
    Raises:
        TypeError: x or weight is not float32.
        ValueError: a rank does not fit.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    op = partial(F.conv3d, stride=stride, dilation=dilation, groups=groups)
    return _conv(op, x, params, spec, padding=padding, dilation=dilation, spatial=3)


def conv_transpose2d(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Quantized torch.nn.functional.conv_transpose2d.

    Args:
        x: float32 (N, in, H, W).
        params: weight (in, out/groups, kH, kW) and the rest, see the module.
        spec: the grids.
        stride: as torch's.
        padding: as torch's.
        output_padding: as torch's.
        groups: as torch's.
        dilation: as torch's.
    Returns:
        float32 (N, out, H', W').
    Raises:
        TypeError: x or weight is not float32.
        ValueError: a rank does not fit.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, weight_rank=4, x_ranks=(4,), name="conv_transpose2d")
    op = partial(
        F.conv_transpose2d,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return _quantized(op, x, params, spec, channel_axis=1, transposed=True, groups=groups)


def same_padding(kernel_size: Sequence[int], dilation: Ints) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis for padding="same", torch's convention.

    Args:
        kernel_size: one size an axis.
        dilation: one for all axes or one an axis.
    Returns:
        (before, after) an axis; after is the larger one where they differ.

    >>> same_padding([4, 3], 1)
    [(1, 2), (1, 1)]
    """
    dilations = [dilation] * len(kernel_size) if isinstance(dilation, int) else list(dilation)
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilations, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def resolve_padding(
    padding: Ints | str, kernel_size: Sequence[int], dilation: Ints
) -> tuple[Ints, list[int]]:
    """Split padding into what a convolution takes and what has to be padded before it.

    Args:
        padding: ints, "same" or "valid".
        kernel_size: one size an axis.
        dilation: one for all axes or one an axis.
    Returns:
        padding for the operator, and a list for torch.nn.functional.pad (empty if none).
    Raises:
        ValueError: padding is another string.
    """
    if not isinstance(padding, str):
        return padding, []
    if padding == "valid":
        return 0, []
    if padding != "same":
        raise ValueError(f'padding must be ints, "same" or "valid", got {padding!r}')
    pairs = same_padding(kernel_size, dilation)
    if all(before == after for before, after in pairs):
        return [before for before, _ in pairs], []
    return 0, [amount for pair in reversed(pairs) for amount in pair]


def _conv(
    op: Callable[..., Tensor],
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    padding: Ints | str,
    dilation: Ints,
    spatial: int,
) -> Tensor:
    rank = spatial + 2
    _check(x, params, weight_rank=rank, x_ranks=(rank,), name=f"conv{spatial}d")
    inner, outer = resolve_padding(padding, params["weight"].shape[2:], dilation)

    def padded(x: Tensor, weight: Tensor) -> Tensor:
        return op(F.pad(x, outer) if outer else x, weight, padding=inner)

    return _quantized(padded, x, params, spec, channel_axis=1)


def _quantized(
    op: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    channel_axis: int,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    q_weight, w_qparams = _quantize_weight(params, spec, transposed=transposed, groups=groups)
    trailing = (1,) * (x.ndim - 2) if channel_axis == 1 else ()
    scale_w = per_output(w_qparams.scale, transposed=transposed, groups=groups)
    scale_w = scale_w.reshape(-1, *trailing)
    bias = params.get("bias")
    bias = None if bias is None else bias.reshape(-1, *trailing)

    if params.get("clip") is None:
        y = op(x, q_weight * w_qparams.scale)
        return y if bias is None else y + bias

    q_x, x_qparams = ulq_quantize(x, params["clip"], spec.activation)
    rescale = x_qparams.scale * scale_w
    if spec.wide:
        q_x, q_weight = q_x.to(torch.float64), q_weight.to(torch.float64)
    acc = op(q_x, q_weight)
    return _add_bias(acc, bias, rescale).to(torch.float32) * rescale


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
    params: Params, spec: LayerSpec, *, transposed: bool, groups: int
) -> tuple[Tensor, QParams]:
    weight = params["weight"]
    scale = params.get("weight_scale")
    if scale is None:
        return arq_quantize(weight, spec.weight, transposed=transposed, groups=groups)
    full = to_full_rank(scale, weight, transposed=transposed, groups=groups)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return lsq_quantize(weight, full, spec.weight, channels=channels)


def _check(
    x: Tensor, params: Params, *, weight_rank: int, x_ranks: Sequence[int] | range, name: str
) -> None:
    weight = params["weight"]
    for what, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name}: {what} must be float32, got {tensor.dtype}")
    if weight.ndim != weight_rank:
        raise ValueError(
            f"{name}: weight must have rank {weight_rank}, got shape {tuple(weight.shape)}"
        )
    if x.ndim not in x_ranks:
        wanted = "2 or more" if len(x_ranks) > 1 else str(x_ranks[0])
        raise ValueError(f"{name}: x must have rank {wanted}, got shape {tuple(x.shape)}")
