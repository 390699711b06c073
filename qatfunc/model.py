"""Whole models as pure functions: init, calibrate, finish, apply over explicit pytrees.

A network is a function of `quantized` and its inputs, where `quantized(name, operator, x, ...)`
computes the operator with the parameters of that name:

    def net(quantized, x):
        x = torch.relu(quantized("conv", operators.conv2d, x, padding=1))
        return quantized("fc", operators.linear, x.flatten(1))

    model = transform(net, LayerSpec())
    params, state = model.init({"conv": {"weight": w1, "bias": b1}, "fc": {"weight": w2}})
    for batch in batches:
        state = model.calibrate(params, state, batch)
    params, state = model.finish(params, state)
    y = model.apply(params, state, batch)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qatfunc import calibration
from qatfunc.calibration import LearnedRange
from qatfunc.lsq import resolve_scale, valid_scales
from qatfunc.numerics.concrete import may_read_values
from qatfunc.operators.arguments import check_params, check_spec
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, LayerSpec, SearchSpec

Pytree = Any


class LayerState(NamedTuple):
    """The state of a quantized operator, besides its parameters."""

    previous: Clip
    """The last valid range of its input."""
    previous_scale: Tensor
    """float32 (out,) or (1,), the last valid trained scales of its weight; (0,) without them."""
    seen: calibration.CalibrationState
    """Calibration statistics of its input."""


class Model(NamedTuple):
    """A network as pure functions, which do not modify their arguments."""

    init: Callable[..., tuple[Pytree, Pytree]]
    """init(...) -> (params, state)."""
    calibrate: Callable[..., Pytree]
    """calibrate(params, state, *inputs) -> state: add a batch to the calibration statistics."""
    finish: Callable[[Pytree, Pytree], tuple[Pytree, Pytree]]
    """finish(params, state) -> (params, state): ranges become trained parameters."""
    apply: Callable[..., Any]
    """apply(params, state, *inputs) -> output."""
    update: Callable[..., tuple[Any, Pytree]]
    """update(params, state, *inputs) -> (output, state): apply, and the state for the next step."""


def transform(
    net: Callable[..., Any],
    spec: LayerSpec | Mapping[str, LayerSpec],
    search: SearchSpec | None = None,
) -> Model:
    """Turn a function over quantized operators into a Model.

    Args:
        net: net(quantized, *inputs) -> output, pure.
        spec: the grids of all operators, or {name: grids of that operator}.
        search: batches, candidates and percentiles of the search for ranges.
    Returns:
        the model; its params are {name: operator's params}, its state {name: LayerState}.
    Raises:
        TypeError: net, spec or search has the wrong type; from init: params has.
        ValueError: from init: params has an unknown name, no weight, or an invalid trained weight
            scale; from calibrate: an operator's input is not finite or too large. Values are not
            checked under a transform and while compiling.
        KeyError: net uses a name that params or spec do not have.
    """
    how = search or SearchSpec()
    _check(net, spec, how)

    def grids(name: str) -> LayerSpec:
        return spec if isinstance(spec, LayerSpec) else spec[name]

    def init(params: Pytree) -> tuple[Pytree, Pytree]:
        if not isinstance(params, Mapping):
            raise TypeError(f"init: params must be {{name: params of an operator}}, got {params!r}")
        for name, layer in params.items():
            check_params(f"init: {name!r}", layer)
        return dict(params), {name: _fresh(name, layer) for name, layer in params.items()}

    def run(params: Pytree, state: Pytree, inputs: tuple[Any, ...]) -> tuple[Any, Pytree, Pytree]:
        seen: dict[str, Tensor] = {}
        after = dict(state)

        def quantized(name: str, operator: Callable[..., Any], x: Tensor, **geometry: Any) -> Any:
            if name not in params:
                raise KeyError(f"{name!r} is no layer of params, which has {sorted(params)}")
            seen[name] = x
            layer, after[name] = _resolve(params[name], after[name], grids(name).activation)
            return operator(x, layer, grids(name), **geometry)

        return net(quantized, *inputs), after, seen

    def calibrate(params: Pytree, state: Pytree, *inputs: Any) -> Pytree:
        unquantized = {name: _without_clip(layer) for name, layer in params.items()}
        _, _, seen = run(unquantized, state, inputs)
        return state | {
            name: state[name]._replace(seen=calibration.take(state[name].seen, x, where=name))
            for name, x in seen.items()
        }

    def finish(params: Pytree, state: Pytree) -> tuple[Pytree, Pytree]:
        ranges = {
            name: calibration.finish_range(layer.seen, grids(name).activation, how)
            for name, layer in state.items()
        }
        trained = {name: {**layer, "clip": ranges[name].clip} for name, layer in params.items()}
        return trained, {name: _finished(state[name], found) for name, found in ranges.items()}

    def apply(params: Pytree, state: Pytree, *inputs: Any) -> Any:
        return run(params, state, inputs)[0]

    def update(params: Pytree, state: Pytree, *inputs: Any) -> tuple[Any, Pytree]:
        return run(params, state, inputs)[:2]

    return Model(init, calibrate, finish, apply, update)


def _check(net: Any, spec: Any, how: Any) -> None:
    if not callable(net):
        raise TypeError(f"transform: net must be a function, got {net!r}")
    check_spec("transform", how, SearchSpec, name="search")
    for name, one in spec.items() if isinstance(spec, Mapping) else [("", spec)]:
        check_spec("transform", one, LayerSpec, name=f"spec[{name!r}]" if name else "spec")


def _fresh(name: str, layer: Mapping[str, Any]) -> LayerState:
    device = layer["weight"].device
    given = layer.get("weight_scale")
    none = torch.zeros(0, dtype=torch.float32, device=device)
    scale = none if given is None else given.detach()
    if may_read_values() and not bool(valid_scales(scale).all()):
        raise ValueError(
            f"{name}: weight_scale must be from 2^-23 to 2^32 where training starts, got values "
            f"from {scale.min().item():g} to {scale.max().item():g}"
        )
    previous = calibration.start_range(device=device).previous
    return LayerState(previous, scale.clone(), calibration.init(device))


def _finished(state: LayerState, found: LearnedRange) -> LayerState:
    previous = found.previous
    return state._replace(previous=previous, seen=calibration.init(previous.max.device))


def _resolve(
    params: Mapping[str, Any], state: LayerState, spec: ActivationSpec
) -> tuple[dict[str, Any], LayerState]:
    """Replace an invalid range and invalid trained scales, and keep the valid ones as the last."""
    layer = dict(params)
    if "clip" in layer:
        trained = LearnedRange(layer["clip"], state.previous)
        layer["clip"], previous = calibration.resolve_range(trained, spec)
        state = state._replace(previous=previous)
    if layer.get("weight_scale") is not None:
        layer["weight_scale"] = resolve_scale(layer["weight_scale"], state.previous_scale)
        state = state._replace(previous_scale=layer["weight_scale"].detach())
    return layer, state


def _without_clip(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key != "clip"}
