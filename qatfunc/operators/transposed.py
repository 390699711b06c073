"""Quantized transposed convolutions of one and two axes."""

from torch import Tensor

from qatfunc.linear_maps.bilinear import transposed_convolution
from qatfunc.linear_maps.padding import Ints
from qatfunc.operators.arguments import check_operands
from qatfunc.operators.dispatch import quantized_op
from qatfunc.params import Params
from qatfunc.spec import LayerSpec


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
        params: weight (in, out/groups, kL) and others, see qatfunc.operators.
        spec: the grids.
        stride: as torch's.
        padding: as torch's.
        output_padding: as torch's.
        groups: as torch's.
        dilation: as torch's.
    Returns:
        float32 (N, out, L').
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=3, x_ranks=(3,), name="conv_transpose1d")
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
        params: weight (in, out/groups, kH, kW) and others, see qatfunc.operators.
        spec: the grids.
        stride: as torch's.
        padding: as torch's.
        output_padding: as torch's.
        groups: as torch's.
        dilation: as torch's.
    Returns:
        float32 (N, out, H', W').
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: as linear.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=4, x_ranks=(4,), name="conv_transpose2d")
    op = transposed_convolution(
        2,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )
    return quantized_op(op, x, params, spec)
