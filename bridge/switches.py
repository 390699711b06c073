"""Switches: hold ranges and scales, turn quantization off, for good or within a with block."""

import fnmatch
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor, nn

from bridge.arguments import check_flags, check_model
from bridge.modules.ranges import RangedModule
from bridge.modules.weighted import QATLayer, qat_layers

__all__ = [
    "Switched",
    "freeze_clips",
    "freeze_weight_scales",
    "frozen_clips",
    "frozen_weight_scales",
    "quantization",
    "set_quantization",
]

_SHOWN = 8
"""Layers named in a message."""

Steps = list[Callable[[], Any]]


class Switched(AbstractContextManager[None]):
    """What a switch returns: without `with` it stays as it was set, as torch.set_grad_enabled.

    The end of a with block puts back what was before the call.

    Args:
        undo: what puts back what was before.
        enter: what a with block does besides, at its start.
    """

    def __init__(self, undo: Steps, enter: Steps | None = None) -> None:
        self._undo = undo
        self._enter = enter or []

    def __enter__(self) -> None:
        for step in self._enter:
            step()

    def __exit__(self, *raised: object) -> None:
        for step in self._undo:
            step()


def freeze_clips(model: nn.Module, *, frozen: bool = True, layers: str = "*") -> Switched:
    """Stop training the input ranges, or go on; for good, or in a with block.

    Args:
        model: any module.
        frozen: hold, or let go.
        layers: pattern of the layers' paths.
    Returns:
        a context manager, at whose end all is as it was before the call.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    check_flags("freeze_clips", frozen=frozen)
    chosen = _selected(model, layers, "freeze_clips")
    clips = [getattr(m, f"{n}_clip_{e}") for m in chosen for n in m.ranges for e in ("max", "min")]
    undo: Steps = [partial(clip.requires_grad_, clip.requires_grad) for clip in clips]
    for clip in clips:
        clip.requires_grad_(not frozen)
    return Switched(undo)


def freeze_weight_scales(model: nn.Module, *, frozen: bool = True, layers: str = "*") -> Switched:
    """Hold the weights' scales as they are now, or let them follow again; for good, or in a block.

    Scales that are held for good are part of the checkpoint. Those that a with block holds are
    not, and a layer whose scales were held before keeps these in the block.

    Args:
        model: any module.
        frozen: hold, or let go.
        layers: pattern of the layers' paths.
    Returns:
        a context manager, at whose end all is as it was before the call.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    check_flags("freeze_weight_scales", frozen=frozen)
    undo: Steps = []
    enter: Steps = []
    for layer in _selected(model, layers, "freeze_weight_scales"):
        if not isinstance(layer, QATLayer):
            continue
        held = layer._buffers.get("frozen_wts_scales")
        persistent = "frozen_wts_scales" not in layer._non_persistent_buffers_set
        put_back = partial(_hold_scales, layer, held, persistent=persistent)
        layer.freeze_weight_scales(frozen=frozen)
        if not frozen or held is None:
            undo.append(put_back)
        if frozen:
            again = partial(layer.freeze_weight_scales, persistent=False)
            enter.append(again if held is None else put_back)
    return Switched(undo, enter)


def set_quantization(
    model: nn.Module,
    *,
    weights: bool | None = None,
    activations: bool | None = None,
    layers: str = "*",
) -> Switched:
    """Turn the quantization of weights or activations on or off; for good, or in a with block.

    What is off is computed in float, and exported in float. It is no part of the checkpoint.

    Args:
        model: any module.
        weights: on, off, or None to leave it.
        activations: on, off, or None to leave it.
        layers: pattern of the layers' paths.
    Returns:
        a context manager, at whose end all is as it was before the call.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: no layer matches.
    """
    given = {"weights": weights, "activations": activations}
    check_flags("set_quantization", **{name: v for name, v in given.items() if v is not None})
    wanted = {"quantizes_weight": weights, "quantizes_input": activations}
    undo: Steps = []
    for layer in _selected(model, layers, "set_quantization"):
        for name, value in wanted.items():
            if not hasattr(layer, name):
                continue
            undo.append(partial(setattr, layer, name, getattr(layer, name)))
            if value is not None:
                setattr(layer, name, value)
    return Switched(undo)


frozen_clips = freeze_clips
frozen_weight_scales = freeze_weight_scales
quantization = set_quantization
"""Other names of the same calls."""


def _hold_scales(layer: QATLayer, held: Tensor | None, *, persistent: bool) -> None:
    """Let a layer's scales go, or hold those that were held before."""
    layer.freeze_weight_scales(frozen=False)
    if held is not None:
        layer.register_buffer("frozen_wts_scales", held, persistent=persistent)
        layer._remember_tensors()


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
