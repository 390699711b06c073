"""Calibrating a model without training it."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from bridge.arguments import check_model
from bridge.distributed import Group, exchange, report_failure, reshard
from bridge.modules.ranges import RangedModule
from bridge.modules.weighted import calibrating, qat_layers
from bridge.selection.batches import call, check_batch, check_batches, stack_error
from bridge.selection.eligibility import candidates, has_operator
from bridge.selection.references import held_elsewhere
from bridge.selection.superseded import held_originals, never_called

Layers = Mapping[str, RangedModule]

_END = object()
_SHOWN = 8
"""Names in a message."""


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], *, group: Group = None) -> None:
    """Find the ranges of a model's activations in eval mode, without training.

    BatchNorm and dropout are quiet; every module's mode is put back afterwards. Batches are
    taken until every quantized layer that the model calls has seen its batch_num. Layers that it
    does not call, because it reads their weight or uses them in training alone, are named in a
    warning and stay without a range. A progress bar is drawn where standard error is a terminal.

    Where torch.distributed is initialized, every process of the group calls this with batches of
    its own, and all find the ranges of one process that saw all of them. A process whose
    batches end before batch_num, after one at least, waits for the others.

    Args:
        model: any module with QAT layers, in a data-parallel wrapper or not.
        batches: what the model is called with: a tensor, a tuple or list of arguments, or a dict
            of keyword arguments; a finite iterable, such as a list of inputs.
        group: the processes that hold this model; all of them by default.
    Raises:
        TypeError: batches is no iterable of batches, or a batch is not what forward takes.
        ValueError: a layer has seen fewer than batch_num batches when the iterable ends, or its
            input is not finite; names the layers. What was seen is kept: another call goes on.
            No layer is called, the float layer is called in its stead, or none is quantized.
        RuntimeError: another process of the group failed, or calibrates another layer.
    """
    layers = _checked(model)
    start = {path: int(layer.cur_batch) for path, layer in layers.items()}
    waiting = _missing(layers).values()
    total = max((layer.config.search.batch_num for layer in waiting), default=0)
    console = Console(stderr=True)
    with (
        calibrating(model, group),
        Progress(console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("calibrating", total=total)
        number = 0
        try:
            for batch in _rounds(batches, layers, group, start=start):
                check_batch(model, batch, f"calibrate: batch {number}")
                with _first_of_a_stack(batches, number):
                    call(model, batch)
                number += 1
                bar.advance(task)
        except Exception as error:
            report_failure(error, group)
            raise
    reshard(model)
    _report(model, layers, start, number)


@contextmanager
def _first_of_a_stack(batches: Any, number: int) -> Iterator[None]:
    """Say what a tensor was taken for where its first row is no batch."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        if isinstance(batches, Tensor) and number == 0:
            raise stack_error(batches, error) from error
        raise


def _checked(model: nn.Module) -> Layers:
    """Return a model's quantized layers; it must have some if it has any to quantize."""
    check_model(model, "calibrate")
    if not any(isinstance(module, RangedModule) for module in model.modules()):
        left = [path or type(module).__name__ for path, module in candidates(model)]
        if left:
            raise ValueError(
                f"calibrate: {type(model).__name__} has no quantized layers; call "
                f"net = bridge.prepare_qat(model) first (float layers: {_few(left)})"
            )
    return dict(qat_layers(model))


def _report(model: nn.Module, layers: Layers, start: Mapping[str, int], batches: int) -> None:
    """Raise or warn where layers are left without a range."""
    missing = _missing(layers)
    short = [path for path in missing if int(layers[path].cur_batch) > start[path]]
    if missing and not batches:
        short = list(missing)
    if short:
        how = ", ".join(
            f"{path} ({int(missing[path].cur_batch)} of {missing[path].config.search.batch_num})"
            for path in short
        )
        none = "no batch was given (a generator can be read only once): " if not batches else ""
        raise ValueError(f"{none}batches ran out before these layers were calibrated: {how}")
    if not missing:
        return
    held = held_originals(model)
    for path, layer in missing.items():
        reference = held.get(id(layer._parameters.get("weight")))
        if reference is not None:
            raise ValueError(never_called(path, reference))
    names = _few(list(missing))
    if all(layer.awaits_calibration for layer in layers.values()):
        raise ValueError(
            f"calibrate: quantized layers that are never called: {names}; the model runs none of "
            f"its quantized layers in eval mode, so nothing was calibrated{_float_layers(model)}"
        )
    warnings.warn(
        f"calibrate: layers that are never called stay without a range: {names}. The model reads "
        "their weight, or does not use them in eval mode; those are in no exported file",
        stacklevel=4,
    )


def _float_layers(model: nn.Module) -> str:
    """Say where a model holds float layers that are no part of it, as functions do in a copy."""
    registered = {id(module) for module in model.modules()}
    places = [
        f"{reference.where} ({reference.kind})"
        for reference in held_elsewhere(model).values()
        if has_operator(reference.module) and id(reference.module) not in registered
    ]
    if not places:
        return ""
    return f"; it holds float layers in {_few(places)}: try prepare_qat(model, inplace=True)"


def _rounds(
    batches: Iterable[Any], layers: Layers, group: Group, *, start: Mapping[str, int]
) -> Iterator[Any]:
    """Iterate over batches until no called layer waits or no process has one left.

    Layers meet their peers when they have seen enough. A process that runs out therefore goes
    through its last batch again, to meet them in the same order, and does not look at it.
    """
    iterator, last = check_batches(batches), _END
    waiting = bool(_missing(layers))
    while waiting:
        batch = next(iterator, _END)
        if not any(exchange(batch is not _END, group)):
            return
        if batch is not _END:
            last = batch
            yield batch
        elif last is _END:
            raise ValueError("this process has no calibration batch, others have")
        else:
            with _counting_only(layers):
                yield last
        missing = _missing(layers).items()
        waiting = any(int(layer.cur_batch) > start[path] for path, layer in missing)


def _few(names: Sequence[str]) -> str:
    """Return names in one line, the first of them where there are many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@contextmanager
def _counting_only(layers: Layers) -> Iterator[None]:
    for layer in layers.values():
        layer.observes = False
    try:
        yield
    finally:
        for layer in layers.values():
            layer.observes = True


def _missing(layers: Layers) -> dict[str, RangedModule]:
    return {path: layer for path, layer in layers.items() if layer.awaits_calibration}
