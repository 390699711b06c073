"""Modules as pure functions: a prepared model as a qatfunc Model, and back to a module."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bridge.arguments import check_model
from bridge.modules.ranges import RangedModule
from bridge.modules.state.inference import copied
from bridge.modules.weight_scales import PREVIOUS
from bridge.modules.weighted import QATLayer, qat_layers
from qatfunc import Clip, calibration
from qatfunc.model import Model
from qatfunc.operators.arguments import check_keys

__all__ = ["ModuleState", "Params", "functionalize", "to_module"]

Params = dict[str, Tensor]


class ModuleState(NamedTuple):
    """The state of a model, without its parameters."""

    buffers: dict[str, Tensor]
    """The module's buffers by name."""
    seen: dict[str, calibration.CalibrationState]
    """Calibration statistics by path and range ("conv1.acts"); empty after finish."""


def functionalize(model: nn.Module) -> Model:
    """Return a model as pure functions over pytrees, which work under torch.func.

    params is {name: tensor} of the module's parameters: weights, ranges and trained weight scales,
    but not the scales and offsets that are computed from these. state is a ModuleState.
    apply and update run in the current mode (train or eval) of the model. update also returns the
    new state: BatchNorm's statistics, and under NAME_pre the ranges and trained weight scales that
    were used. These differ from params where training made params invalid; a module continues
    from them. init sets trained weight scales to ARQ's scales of the current weights.

    Args:
        model: any module with QAT layers; it is copied and never modified.
    Returns:
        a Model; its init() returns (params, state) with the model's current values.
    """
    check_model(model, "functionalize")
    template = copied(model)
    names = {name for name, _ in template.named_parameters()} - _derived_names(template)
    layers = dict(qat_layers(template))
    modes = {module: module.training for module in template.modules()}

    def init() -> tuple[Params, ModuleState]:
        return _current_values(model)

    def run(
        params: Params, state: ModuleState, inputs: tuple[Any, ...]
    ) -> tuple[Any, dict[str, Tensor]]:
        _check_names("params", params, names)
        if not isinstance(state, ModuleState):
            raise TypeError(f"state must be the ModuleState of init, got a {type(state).__name__}")
        buffers = {name: buffer.clone() for name, buffer in state.buffers.items()}
        with _phase(layers, state):
            output = torch.func.functional_call(template, (params, buffers), inputs)
        return output, buffers

    def calibrate(params: Params, state: ModuleState, *inputs: Any) -> ModuleState:
        seen, buffers = dict(state.seen), dict(state.buffers)

        def observe(path: str, name: str, x: Tensor) -> None:
            key = f"{path}.{name}"
            if key in seen:
                seen[key] = calibration.take(seen[key], x, where=path)
                buffers[_join(path, "cur_batch")] = seen[key].batches

        with _observed(layers, observe):
            try:
                template.eval()
                run(params, state, inputs)
            finally:
                for module, training in modes.items():
                    module.training = training
        return ModuleState(buffers, seen)

    def finish(params: Params, state: ModuleState) -> tuple[Params, ModuleState]:
        params, buffers = dict(params), dict(state.buffers)
        for key, seen in state.seen.items():
            path, _, name = key.rpartition(".")
            config = layers[path].config
            found = calibration.finish_range(seen, config.activation, config.search)
            for end in Clip._fields:
                params[_join(path, f"{name}_clip_{end}")] = getattr(found.clip, end)
                buffers[_join(path, f"{name}_clip_{end}_pre")] = getattr(found.previous, end)
        return params, ModuleState(buffers, {})

    def apply(params: Params, state: ModuleState, *inputs: Any) -> Any:
        return run(params, state, inputs)[0]

    def update(params: Params, state: ModuleState, *inputs: Any) -> tuple[Any, ModuleState]:
        output, buffers = run(params, state, inputs)
        return output, state._replace(buffers=buffers)

    return Model(init, calibrate, finish, apply, update)


def to_module(model: nn.Module, params: Mapping[str, Tensor], state: ModuleState) -> nn.Module:
    """Return a copy of a model with given parameters and state.

    Args:
        model: the model that functionalize was called on, or one with the same names and shapes.
        params: as functionalize's functions return them.
        state: as functionalize's functions return it.
    Returns:
        the copy; functionalize(copy).init() returns equal pytrees.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: params or state have other names or shapes than the model.
    """
    check_model(model, "to_module")
    if not isinstance(state, ModuleState):
        raise TypeError(f"to_module: state must be a ModuleState, got a {type(state).__name__}")
    derived = _derived_names(model)
    for what, given, own in (
        ("params", params, dict(model.named_parameters())),
        ("state.buffers", state.buffers, dict(model.named_buffers())),
    ):
        _check_names(what, given, own.keys() - derived)
        _check_shapes(what, given, own)
    twin = copied(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in params:
                parameter.copy_(params[name])
        for name, buffer in twin.named_buffers():
            if name in state.buffers:
                buffer.copy_(state.buffers[name])
    for path, layer in qat_layers(twin):
        layer._batches = int(layer.cur_batch)
        seen = _seen_by(path, layer, state)
        layer._calibration = {name: one for name, one in seen.items() if int(one.batches)}
        if isinstance(layer, QATLayer) and not layer.quantizes_input:
            layer._started_without_input = layer.config.learned_scale
    return twin


def _check_names(what: str, given: Any, names: Set[str]) -> None:
    """Raise unless a pytree has exactly the model's names: functional_call would ignore others."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dict of tensors by name, got a {type(given).__name__}")
    if given.keys() == names:
        return
    check_keys("model", what, given, sorted(names))
    missing = ", ".join(sorted(names - given.keys()))
    raise ValueError(f"{what} lacks {missing}; take all of what init returns")


def _check_shapes(what: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        if tuple(value.shape) != tuple(own[name].shape):
            raise ValueError(
                f"{what}[{name!r}] has shape {tuple(value.shape)}, "
                f"the model's {tuple(own[name].shape)}"
            )


def _current_values(model: nn.Module) -> tuple[Params, ModuleState]:
    """Return copies of a model's parameters and state; trained weight scales are started."""
    derived = _derived_names(model)
    params = {n: p.detach().clone() for n, p in model.named_parameters() if n not in derived}
    buffers = {n: b.detach().clone() for n, b in model.named_buffers() if n not in derived}
    _start_scales(model, params, buffers)
    seen = {
        f"{path}.{name}": layer._calibration.get(name) or calibration.init(layer.cur_batch.device)
        for path, layer in qat_layers(model)
        if not layer.calibrated
        for name in layer.ranges
    }
    return params, ModuleState(buffers, seen)


@contextmanager
def _observed(
    layers: Mapping[str, RangedModule], observe: Callable[[str, str, Tensor], None]
) -> Iterator[None]:
    """Call observe(path, range, x) for the quantized inputs of every forward in a with block."""

    def hook(path: str, layer: RangedModule, args: Any, kwargs: Mapping[str, Any]) -> None:
        arguments = inspect.signature(layer.forward).bind(*args, **kwargs).args
        for name, x in zip(layer.ranges, layer.quantized_inputs(*arguments), strict=False):
            observe(path, name, x)

    handles = [
        layer.register_forward_pre_hook(
            lambda m, a, k, path=path: hook(path, m, a, k), with_kwargs=True
        )
        for path, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _start_scales(model: nn.Module, params: Params, buffers: dict[str, Tensor]) -> None:
    """Set trained weight scales to ARQ's, as a module does with its first batch."""
    for path, layer in qat_layers(model):
        if not isinstance(layer, QATLayer) or not layer.config.learned_scale:
            continue
        if layer._scales_started:
            continue
        start = layer._learned_scale(layer._arq_scale())
        params[_join(path, "wts_scales")] = start
        buffers[_join(path, PREVIOUS)] = start.clone()
        if layer.calibrated:
            # The range was configured, so that calibration will count no batch.
            buffers[_join(path, "cur_batch")] += 1


def _derived_names(model: nn.Module) -> set[str]:
    return {
        _join(path, name)
        for path, layer in qat_layers(model)
        for name in layer.derived_names(learned_scale=layer.config.learned_scale)
    }


@contextmanager
def _phase(layers: Mapping[str, RangedModule], state: ModuleState) -> Iterator[None]:
    """Set the template's layers to calibrated or not, as the state is."""
    before = {
        path: (layer._batches, layer._calibration, layer.training) for path, layer in layers.items()
    }
    for path, layer in layers.items():
        layer._batches, layer._calibration = 1, _seen_by(path, layer, state)
        # In training mode an uncalibrated forward would write to the caller's tensors.
        layer.training = layer.training and not layer._calibration
        layer._warned = True
    try:
        yield
    finally:
        for path, layer in layers.items():
            layer._batches, layer._calibration, layer.training = before[path]


def _seen_by(
    path: str, layer: RangedModule, state: ModuleState
) -> dict[str, calibration.CalibrationState]:
    keys = {name: f"{path}.{name}" for name in layer.ranges}
    return {name: state.seen[key] for name, key in keys.items() if key in state.seen}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
