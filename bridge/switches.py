"""Switches: hold ranges and scales, turn quantization off, for good or within a with block."""

import fnmatch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from bridge.arguments import check_flags, check_model
from bridge.modules.ranges import RangedModule
from bridge.modules.weighted import QATLayer, qat_layers

_SHOWN = 8
"""Layers named in a message."""


def freeze_clips(model: nn.Module, *, frozen: bool = True, layers: str = "*") -> None:
    """Stop training the input ranges, or go on.

    Args:
        model: any module.
        frozen: hold, or let go.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    check_flags("freeze_clips", frozen=frozen)
    for layer in _selected(model, layers, "freeze_clips"):
        for name in layer.ranges:
            for end in ("max", "min"):
                getattr(layer, f"{name}_clip_{end}").requires_grad_(not frozen)


def freeze_weight_scales(model: nn.Module, *, frozen: bool = True, layers: str = "*") -> None:
    """Hold the weights' scales as they are now, or let them follow again.

    Held scales are part of the checkpoint.

    Args:
        model: any module.
        frozen: hold, or let go.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    check_flags("freeze_weight_scales", frozen=frozen)
    for layer in _selected(model, layers, "freeze_weight_scales"):
        if isinstance(layer, QATLayer):
            layer.freeze_weight_scales(frozen=frozen)


def set_quantization(
    model: nn.Module,
    *,
    weights: bool | None = None,
    activations: bool | None = None,
    layers: str = "*",
) -> None:
    """Turn the quantization of weights or activations on or off.

    What is off is computed in float, and exported in float. It is no part of the checkpoint.

    Args:
        model: any module.
        weights: on, off, or None to leave it.
        activations: on, off, or None to leave it.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    _check_switches("set_quantization", weights=weights, activations=activations)
    for layer in _selected(model, layers, "set_quantization"):
        if activations is not None:
            layer.quantizes_input = activations
        if weights is not None and isinstance(layer, QATLayer):
            layer.quantizes_weight = weights


@contextmanager
def frozen_clips(model: nn.Module, *, layers: str = "*") -> Iterator[None]:
    """Hold the input ranges within a with block.

    Args:
        model: any module.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    chosen = _selected(model, layers, "frozen_clips")
    clips = [getattr(m, f"{n}_clip_{e}") for m in chosen for n in m.ranges for e in ("max", "min")]
    with _restored([(clip.requires_grad, clip.requires_grad_) for clip in clips]):
        freeze_clips(model, layers=layers)
        yield


@contextmanager
def frozen_weight_scales(model: nn.Module, *, layers: str = "*") -> Iterator[None]:
    """Hold the weights' scales within a with block.

    Args:
        model: any module.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    free = [
        layer
        for layer in _selected(model, layers, "frozen_weight_scales")
        if isinstance(layer, QATLayer) and "frozen_wts_scales" not in layer._buffers
    ]
    for layer in free:
        layer.freeze_weight_scales(persistent=False)
    try:
        yield
    finally:
        for layer in free:
            layer.freeze_weight_scales(frozen=False)


@contextmanager
def quantization(
    model: nn.Module,
    *,
    weights: bool | None = None,
    activations: bool | None = None,
    layers: str = "*",
) -> Iterator[None]:
    """Turn quantization on or off within a with block.

    Args:
        model: any module.
        weights: on, off, or None to leave it.
        activations: on, off, or None to leave it.
        layers: pattern of the layers' paths.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    _check_switches("quantization", weights=weights, activations=activations)
    chosen = _selected(model, layers, "quantization")
    before: list[tuple[Any, Callable[[Any], Any]]] = [
        (getattr(layer, name), partial(setattr, layer, name))
        for layer in chosen
        for name in ("quantizes_input", "quantizes_weight")
        if hasattr(layer, name)
    ]
    with _restored(before):
        set_quantization(model, weights=weights, activations=activations, layers=layers)
        yield


def _check_switches(function: str, **flags: bool | None) -> None:
    """Raise unless switches are True, False or None."""
    check_flags(function, **{name: flag for name, flag in flags.items() if flag is not None})


@contextmanager
def _restored(values: list[tuple[Any, Callable[[Any], Any]]]) -> Iterator[None]:
    try:
        yield
    finally:
        for value, put_back in values:
            put_back(value)


def _selected(model: nn.Module, pattern: str, function: str) -> list[RangedModule]:
    check_model(model, function)
    if not isinstance(pattern, str):
        raise TypeError(f"{function}: layers must be a pattern of paths, got {pattern!r}")
    found = [layer for path, layer in qat_layers(model) if fnmatch.fnmatchcase(path, pattern)]
    if not found:
        paths = [path for path, _ in qat_layers(model)]
        if not paths:
            raise ValueError(
                f"no quantized layer matches {pattern!r}: the model has none; "
                "call net = bridge.prepare_qat(model) first"
            )
        more = ", ..." if len(paths) > _SHOWN else ""
        raise ValueError(
            f"no quantized layer matches {pattern!r}; there are {', '.join(paths[:_SHOWN])}{more}"
        )
    return found
