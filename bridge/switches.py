"""Freezing ranges and scales, and turning quantization off, permanently or in a with block."""

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
"""Largest number of layers that a message names."""

Steps = list[Callable[[], Any]]


class Switched(AbstractContextManager[None]):
    """The result of a switch, which has an effect already; as a context manager it undoes it.

    As torch.set_grad_enabled: without `with` the setting stays, the end of a with block restores
    the setting of before the call.

    Args:
        undo: calls that restore the setting of before.
        enter: further calls at the start of a with block.
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
    """Freeze the input ranges, or train them again; permanently, or in a with block.

    Args:
        model: any module.
        frozen: True to freeze, False to train.
        layers: pattern of the layers' paths, as fnmatch's.
    Returns:
        a context manager whose exit restores the setting of before the call.
    Raises:
        TypeError: an argument has a wrong type.
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
    """Freeze the weight scales at their current values, or unfreeze; permanently, or in a block.

    Scales that are frozen permanently are saved in checkpoints. Those frozen by a with block are
    not; in it a layer whose scales were frozen before keeps its frozen scales.

    Args:
        model: any module.
        frozen: True to freeze; False to compute (ARQ) or train (ulq_retrain) the scales again.
        layers: pattern of the layers' paths, as fnmatch's.
    Returns:
        a context manager whose exit restores the setting of before the call.
    Raises:
        TypeError: an argument has a wrong type.
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
    """Turn the quantization of weights or activations on or off; permanently, or in a with block.

    A weight or activation that is off is used, and exported, in float. Checkpoints do not contain
    the setting.

    Args:
        model: any module.
        weights: True for on, False for off, None for no change.
        activations: True for on, False for off, None for no change.
        layers: pattern of the layers' paths, as fnmatch's.
    Returns:
        a context manager whose exit restores the setting of before the call.
    Raises:
        TypeError: an argument has a wrong type.
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
"""Aliases, the names of the former context managers."""


def _hold_scales(layer: QATLayer, held: Tensor | None, *, persistent: bool) -> None:
    """Unfreeze a layer's scales, or freeze them at the values that were frozen before."""
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
