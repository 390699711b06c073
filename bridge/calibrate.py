"""Calibrating a model without training it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from bridge.modules.base import calibrating, qat_layers


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Find the ranges of a model's activations in eval mode, without training.

    BatchNorm and dropout are quiet; every module's mode is put back afterwards. Batches are
    taken until every quantized layer has seen its batch_num. A progress bar is drawn where
    standard error is a terminal.

    Args:
        model: any module with QAT layers.
        batches: what the model is called with: a tensor, a tuple or list of arguments, or a dict
            of keyword arguments; a finite iterable, such as a list of inputs.
    Raises:
        ValueError: a layer has seen fewer than batch_num batches when the iterable ends, or its
            input is not finite; names the layers. What was seen is kept: another call goes on.
    """
    layers = dict(qat_layers(model))
    missing = _missing(layers)
    total = max((layer.config.search.batch_num for layer in missing.values()), default=0)
    console = Console(stderr=True)
    with calibrating(model), Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("calibrating", total=total)
        iterator = iter(batches)
        while missing:
            batch = next(iterator, None)
            if batch is None:
                break
            _call(model, batch)
            bar.advance(task)
            missing = _missing(layers)
    if missing:
        seen = ", ".join(
            f"{path} ({int(layer.cur_batch)} of {layer.config.search.batch_num})"
            for path, layer in missing.items()
        )
        raise ValueError(f"batches ran out before these layers were calibrated: {seen}")


def _missing(layers: Mapping[str, Any]) -> dict[str, Any]:
    return {path: layer for path, layer in layers.items() if layer.awaits_calibration}


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)
