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
    "adopted"       Adopted, optional; what the sums are multiplied by instead of the scales
"""

from collections.abc import Sequence

from torch import Tensor

from qatfunc.arguments import check_clips, check_params, check_spec, check_tensor
from qatfunc.bilinear import Linear, convolution, transposed_convolution
from qatfunc.exact import quantized_matmul, quantized_op
from qatfunc.padding import Ints
from qatfunc.params import Params
from qatfunc.spec import ActivationSpec, LayerSpec

_LINEAR = Linear()
_MATRICES = range(2, 65)


def linear(x: Tensor, params: Params, spec: LayerSpec) -> Tensor:
    """Quantized torch.nn.functional.linear.

    Args:
        x: float32 (*, in), rank 2 or more.
        params: weight (out, in) and the rest, see the module.
        spec: the grids.
    Returns:
        float32 (*, out).
    Raises:
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: ULQ's for x and clip, ARQ's (or LSQ's) for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=2, x_ranks=_MATRICES, name="linear")
    return quantized_op(_LINEAR, x, params, spec)


def conv1d(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Quantized torch.nn.functional.conv1d.

    Args:
        x: float32 (N, in, L).
        params: weight (out, in/groups, kL) and the rest, see the module.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too; padding counts as the integer 0.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, L').
    Raises:
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=3, x_ranks=(3,), name="conv1d")
    op = convolution(
        params["weight"].shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return quantized_op(op, x, params, spec)


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
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=4, x_ranks=(4,), name="conv2d")
    op = convolution(
        params["weight"].shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return quantized_op(op, x, params, spec)


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
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=5, x_ranks=(5,), name="conv3d")
    op = convolution(
        params["weight"].shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return quantized_op(op, x, params, spec)


def conv_transpose1d(
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
    """Quantized torch.nn.functional.conv_transpose1d.

    Args:
        x: float32 (N, in, L).
        params: weight (in, out/groups, kL) and the rest, see the module.
        spec: the grids.
        stride: as torch's.
        padding: as torch's.
        output_padding: as torch's.
        groups: as torch's.
        dilation: as torch's.
    Returns:
        float32 (N, out, L').
    Raises:
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=3, x_ranks=(3,), name="conv_transpose1d")
    op = transposed_convolution(
        1,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return quantized_op(op, x, params, spec)


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
        TypeError: x or weight is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    _check(x, params, spec, weight_rank=4, x_ranks=(4,), name="conv_transpose2d")
    op = transposed_convolution(
        2,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return quantized_op(op, x, params, spec)


def matmul(input: Tensor, other: Tensor, params: Params, spec: ActivationSpec) -> Tensor:  # noqa: A002
    """Quantized torch.matmul of two activations.

    Args:
        input: float32 (*, m, k), rank 2 to 6.
        other: float32 (*, k, n), rank 2 to 6.
        params: "input_clip" and "other_clip", Clips; without them nothing is quantized.
        spec: the grid of both.
    Returns:
        float32 (*, m, n).
    Raises:
        TypeError: an operand is not float32, or params or spec is of a wrong kind.
        ValueError: a rank does not fit, or params has another name or one clip alone.
    Gradient: ULQ's for both operands and clips.
    Source: docs/semantics.md, 7.
    """
    for name, operand in (("input", input), ("other", other)):
        check_tensor("matmul", name, operand)
        if not 2 <= operand.ndim <= 6:
            raise ValueError(f"matmul: {name} must have rank 2 to 6, got {tuple(operand.shape)}")
    check_spec("matmul", spec, ActivationSpec)
    check_clips(params)
    quantized = params.get("input_clip") is not None
    clips = (params["input_clip"], params["other_clip"]) if quantized else None
    return quantized_matmul(input, other, clips, spec)


def _check(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    weight_rank: int,
    x_ranks: Sequence[int] | range,
    name: str,
) -> None:
    check_tensor(name, "x", x)
    check_spec(name, spec, LayerSpec)
    check_params(name, params)
    weight = params["weight"]
    if weight.ndim != weight_rank:
        raise ValueError(
            f"{name}: weight must have rank {weight_rank}, got shape {tuple(weight.shape)}"
        )
    if x.ndim not in x_ranks:
        wanted = "2 or more" if len(x_ranks) > 1 else str(x_ranks[0])
        raise ValueError(f"{name}: x must have rank {wanted}, got shape {tuple(x.shape)}")
