"""Quantized convolutions of one to three axes."""

from torch import Tensor

from qatfunc.linear_maps.bilinear import convolution
from qatfunc.linear_maps.padding import Ints
from qatfunc.operators.arguments import check_operands
from qatfunc.operators.dispatch import quantized_op
from qatfunc.params import Params
from qatfunc.spec import LayerSpec


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
        params: weight (out, in/groups, kL) and others, see qatfunc.operators.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too; it pads with the real number 0.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, L').
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=3, x_ranks=(3,), name="conv1d")
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
        params: weight (out, in/groups, kH, kW) and others, see qatfunc.operators.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too; it pads with the real number 0.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, H', W').
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=4, x_ranks=(4,), name="conv2d")
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
        params: weight (out, in/groups, kD, kH, kW) and others, see qatfunc.operators.
        spec: the grids.
        stride: as torch's.
        padding: as torch's, "same" and "valid" too.
        dilation: as torch's.
        groups: as torch's.
    Returns:
        float32 (N, out, D', H', W').
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=5, x_ranks=(5,), name="conv3d")
    op = convolution(
        params["weight"].shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return quantized_op(op, x, params, spec)
