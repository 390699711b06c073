"""Calibrating a model without training it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from bridge.modules.base import calibrating, qat_layers
from bridge.modules.ranges import RangedModule
from bridge.peers import Group, exchange, report_failure, reshard

Layers = Mapping[str, RangedModule]


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], *, group: Group = None) -> None:
    """Find the ranges of a model's activations in eval mode, without training.

    BatchNorm and dropout are quiet; every module's mode is put back afterwards. Batches are
    taken until every quantized layer has seen its batch_num. A progress bar is drawn where
    standard error is a terminal.

    Where torch.distributed is initialized, every process of the group calls this with batches of
    its own, and all find the ranges of one process that saw all of them. A process whose
    batches end before batch_num, after one at least, waits for the others.

    Args:
        model: any module with QAT layers, in a data-parallel wrapper or not.
        batches: what the model is called with: a tensor, a tuple or list of arguments, or a dict
            of keyword arguments; a finite iterable, such as a list of inputs.
        group: the processes that hold this model; all of them by default.
    Raises:
        ValueError: a layer has seen fewer than batch_num batches when the iterable ends, or its
            input is not finite; names the layers. What was seen is kept: another call goes on.
        RuntimeError: another process of the group failed, or calibrates another layer.
    """
    layers = dict(qat_layers(model))
    waiting = _missing(layers).values()
    total = max((layer.config.search.batch_num for layer in waiting), default=0)
    console = Console(stderr=True)
    with (
        calibrating(model, group),
        Progress(console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("calibrating", total=total)
        try:
            for batch in _rounds(batches, layers, group):
                _call(model, batch)
                bar.advance(task)
        except Exception as error:
            report_failure(error, group)
            raise
    reshard(model)
    missing = _missing(layers)
    if missing:
        seen = ", ".join(
            f"{path} ({int(layer.cur_batch)} of {layer.config.search.batch_num})"
            for path, layer in missing.items()
        )
        raise ValueError(f"batches ran out before these layers were calibrated: {seen}")


def _rounds(batches: Iterable[Any], layers: Layers, group: Group) -> Iterator[Any]:
    """Iterate over batches until no layer waits or no process has one left.

    Layers meet their peers when they have seen enough. A process that runs out therefore goes
    through its last batch again, to meet them in the same order, and does not look at it.
    """
    iterator, last = iter(batches), None
    while _missing(layers):
        batch = next(iterator, None)
        if not any(exchange(batch is not None, group)):
            return
        if batch is not None:
            last = batch
            yield batch
        elif last is None:
            raise ValueError("this process has no calibration batch, others have")
        else:
            with _looking_away(layers):
                yield last


@contextmanager
def _looking_away(layers: Layers) -> Iterator[None]:
    for layer in layers.values():
        layer.looks = False
    try:
        yield
    finally:
        for layer in layers.values():
            layer.looks = True


def _missing(layers: Layers) -> dict[str, RangedModule]:
    return {path: layer for path, layer in layers.items() if layer.awaits_calibration}


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)
