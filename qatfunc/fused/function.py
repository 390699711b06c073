"""The quantized operator as one autograd Function, which saves no more than the float operator.

It saves the operands and the weight's scales; backward quantizes again. Forward and backward are
each a Function that calls a kernel. Forward-mode derivatives, second derivatives and batches of
gradients of one output are those of the composition of plain functions (qatfunc.composed). Under
vmap, layers with weights of their own are computed one after the other.
"""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from qatfunc.composed import composed_op
from qatfunc.fused.kernels import FusedSpec, fused_backward, fused_forward, grids_of, named
from qatfunc.linear_maps.bilinear import Bilinear
from qatfunc.numerics.autocast import exact_types
from qatfunc.numerics.torch_internals import (
    apply_untransformed,
    forward_ad_is_active,
    transforms_are_active,
)
from qatfunc.params import Params
from qatfunc.spec import ActivationSpec, LayerSpec, WeightSpec

_OPTIONAL = ("bias", "weight_scale")


def fused_op(
    op: Bilinear, x: Tensor, params: Params, *, weight: WeightSpec, activation: ActivationSpec
) -> Tensor:
    """Compute the result of composed.composed_op, in fewer passes and less memory.

    Args:
        op: the operator.
        x: float32 input.
        params: see qatfunc.operators; with a clip of two scalars.
        weight: the weight's grid.
        activation: the input's grid, not so wide that sums leave float32.
    Returns:
        float32 output.
    Raises:
        ValueError: as arq.arq_qparams.
    Gradient: ULQ's for x and clip, ARQ's or LSQ's for weight, g for bias.
    Source: docs/semantics.md, 7.
    """
    optional = tuple([name for name in _OPTIONAL if params.get(name) is not None])
    static = FusedSpec(op, weight, activation, optional)
    tensors = (x, params["weight"], *params["clip"], *[params[name] for name in optional])
    if transforms_are_active() or forward_ad_is_active():
        y: Tensor = _Forward.apply(static, *tensors)[0]
        return y
    eager: Tensor = apply_untransformed(_Eager, static, *tensors)
    return eager


class _Forward(Function):
    """(spec, x, weight, clip.max, clip.min, *optional) -> (output, the weight's scales)."""

    @staticmethod
    def forward(spec: FusedSpec, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        y, grids = fused_forward(spec, named(spec, tensors))
        return y, grids.weight.scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.spec, *tensors = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], *tensors)
        ctx.save_for_forward(output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        found = iter(_Backward.apply(ctx.spec, needed, g, *ctx.saved_tensors))
        return None, *(next(found) if need else None for need in needed)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, None]:
        _, *tensors = ctx.saved_tensors
        return _tangent(partial(_composed, ctx.spec), tensors, tangents), None

    @staticmethod
    def vmap(_: Any, in_dims: Sequence[Any], spec: FusedSpec, *tensors: Tensor) -> Any:
        if all(dim is None for dim in in_dims[2:]):
            x = tensors[0].movedim(in_dims[1], 0)
            y, scales = _Forward.apply(spec, spec.op.join_batches(x), *tensors[1:])
            return (spec.op.split_batches(y, len(x)), scales), (0, None)
        return _one_by_one(partial(_Forward.apply, spec), in_dims[1:], tensors), (0, 0)


class _Eager(Function):
    """_Forward without transforms and forward mode, whose overhead slows small layers down."""

    @staticmethod
    def forward(ctx: Any, spec: FusedSpec, *tensors: Tensor) -> Tensor:
        y, ctx.grids = fused_forward(spec, named(spec, tensors))
        ctx.spec = spec
        ctx.save_for_backward(*tensors)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        spec, grids, tensors = ctx.spec, ctx.grids, ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or transforms_are_active():
            found = iter(_Backward.apply(spec, needed, g, grids.weight.scale, *tensors))
        else:
            with exact_types(g):
                found = iter(fused_backward(spec, needed, g, grids, named(spec, tensors)))
        return None, *[next(found) if need else None for need in needed]


class _Backward(Function):
    """(spec, needed, g, the weight's scales, x, weight, ...) -> the gradients that are needed."""

    @staticmethod
    def forward(
        spec: FusedSpec, needed: tuple[bool, ...], g: Tensor, scales: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        with exact_types(g):  # autocast may surround backward() too
            operands = named(spec, tensors)
            return fused_backward(spec, needed, g, grids_of(spec, operands, scales), operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: tuple[Tensor, ...]) -> None:
        ctx.spec, ctx.needed, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        g, _, *tensors = ctx.saved_tensors
        backward = partial(_composed_backward, ctx.spec, ctx.needed)
        pull = torch.func.vjp(backward, g, *tensors)[1]
        of_g, *rest = pull(upstream)
        return None, None, of_g, None, *rest

    @staticmethod
    def jvp(ctx: Any, _spec: None, _needed: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        g, _, *tensors = ctx.saved_tensors
        backward = partial(_composed_backward, ctx.spec, ctx.needed)
        return _tangent(backward, (g, *tensors), (tangents[0], *tangents[2:]))

    @staticmethod
    def vmap(
        _: Any, in_dims: Sequence[Any], spec: FusedSpec, needed: tuple[bool, ...], *tensors: Any
    ) -> Any:
        g, _, *rest = tensors
        if all(dim is None for dim in in_dims[5:]):
            backward = partial(_composed_backward, spec, needed)
            found = torch.vmap(backward, (in_dims[2], *in_dims[4:]))(g, *rest)
        else:
            found = _one_by_one(partial(_Backward.apply, spec, needed), in_dims[2:], tensors)
        return found, (0,) * sum(needed)


for _function in (_Forward, _Backward):
    # Function.apply derives the signature of forward at every call unless it is stored.
    _function.forward.__signature__ = signature(_function.forward)  # type: ignore[union-attr]


def _one_by_one(
    function: Callable[..., tuple[Tensor, ...]],
    dims: Sequence[int | None],
    tensors: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Call a function for each member of a batch and stack what it returns.

    Layers with weights of their own take less time one after the other than composed as one.
    """
    pairs = list(zip(tensors, dims, strict=True))
    size = next(t.shape[dim] for t, dim in pairs if dim is not None)
    members = ([t if dim is None else t.select(dim, i) for t, dim in pairs] for i in range(size))
    found = [function(*member) for member in members]
    return tuple(torch.stack(column) for column in zip(*found, strict=True))


def _composed(spec: FusedSpec, *tensors: Tensor) -> Tensor:
    x, weight, clip, optional = named(spec, tensors)
    layer = LayerSpec(weight=spec.weight, activation=spec.activation)
    return composed_op(spec.op, x, {"weight": weight, "clip": clip, **optional}, layer)


def _composed_backward(
    spec: FusedSpec, needed: Sequence[bool], g: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]:
    pull = torch.func.vjp(partial(_composed, spec), *tensors)[1]
    gradients = pull(g)
    return tuple(gradient for gradient, need in zip(gradients, needed, strict=True) if need)


def _tangent(
    function: Callable[..., Any], primals: Sequence[Tensor], tangents: Sequence[Tensor | None]
) -> Any:
    """Return the derivative of a function in the direction of tangents, None for zero."""
    pairs = zip(primals, tangents, strict=True)
    filled = tuple(torch.zeros_like(p) if t is None else t for p, t in pairs)
    return torch.func.jvp(function, tuple(primals), filled)[1]
