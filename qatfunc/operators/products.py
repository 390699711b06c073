"""Quantized matrix products: linear (input by weight) and matmul (two activations)."""

from torch import Tensor

from qatfunc.composed import composed_matmul
from qatfunc.linear_maps.bilinear import Linear
from qatfunc.numerics.autocast import exact_types
from qatfunc.operators.arguments import check_clips, check_operands, check_spec, check_tensor
from qatfunc.operators.dispatch import quantized_op
from qatfunc.params import Params
from qatfunc.spec import ActivationSpec, LayerSpec

_LINEAR = Linear()
_MATRICES = range(2, 65)


def linear(x: Tensor, params: Params, spec: LayerSpec) -> Tensor:
    """Quantized torch.nn.functional.linear.

    Args:
        x: float32 (*, in), rank 2 or more.
        params: weight (out, in) and others, see qatfunc.operators.
        spec: the grids.
    Returns:
        float32 (*, out).
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    Gradient: ULQ's for x and clip, ARQ's (or LSQ's) for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    check_operands(x, params, spec, weight_rank=2, x_ranks=_MATRICES, name="linear")
    return quantized_op(_LINEAR, x, params, spec)


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
        TypeError: an operand is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or one clip only.
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
    with exact_types(input):
        return composed_matmul(input, other, clips, spec)
