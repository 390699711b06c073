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

__all__ = ["calibrate"]

Layers = Mapping[str, RangedModule]

_END = object()
_SHOWN = 8
"""Largest number of names in a message."""


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], *, group: Group = None) -> None:
    """Find the ranges of a model's activations in eval mode, without training.

    The model runs in eval mode, so BatchNorm keeps its statistics and dropout is off; afterwards
    every module has its own mode again. Batches are read until every quantized layer that the
    model calls has seen batch_num of them. Layers that are not called, since the model reads their
    weight or uses them only in training, get no range; a warning names them. A progress bar is
    shown if standard error is a terminal.

    Where torch.distributed is initialized, every process of the group must call this, each with
    its own batches; all get the ranges of one process that has seen all batches. A process may
    have fewer batches than batch_num, but at least one.

    Args:
        model: any module with QAT layers; a data-parallel wrapper is accepted.
        batches: a finite iterable of batches, such as a list or a DataLoader. A batch is a tensor,
            a tuple or list of arguments, or a dict of keyword arguments of forward.
        group: the processes that calibrate this model together, None for all processes.
    Raises:
        TypeError: batches is not an iterable of batches, or forward does not take a batch.
        ValueError: the batches end before a layer has seen batch_num of them, or an input is not
            finite (the message names the layers; the statistics are kept, so another call
            continues); no quantized layer is called; the model calls a float layer instead of the
            quantized one that replaces it; or the model has no quantized layer.
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
                with _explaining_stacks(batches, number):
                    call(model, batch)
                number += 1
                bar.advance(task)
        except Exception as error:
            report_failure(error, group)
            raise
    reshard(model)
    _report(model, layers, start, number)


@contextmanager
def _explaining_stacks(batches: Any, number: int) -> Iterator[None]:
    """Explain the error of a single batch that was passed instead of an iterable of batches."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        if isinstance(batches, Tensor) and number == 0:
            raise stack_error(batches, error) from error
        raise


def _checked(model: nn.Module) -> Layers:
    """Return a model's quantized layers by path; raise if prepare_qat was not called."""
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
    """Raise or warn if layers have no range."""
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
        "their weight, or does not use them in eval mode; exported files do not contain them",
        stacklevel=4,
    )


def _float_layers(model: nn.Module) -> str:
    """Return a hint that names float layers outside the model, as a copied closure holds them."""
    registered = {id(module) for module in model.modules()}
    references = [
        f"{reference.where} ({reference.kind})"
        for reference in held_elsewhere(model).values()
        if has_operator(reference.module) and id(reference.module) not in registered
    ]
    if not references:
        return ""
    return f"; it holds float layers in {_few(references)}: try prepare_qat(model, inplace=True)"


def _rounds(
    batches: Iterable[Any], layers: Layers, group: Group, *, start: Mapping[str, int]
) -> Iterator[Any]:
    """Iterate over batches until all called layers are calibrated or no rank has another batch.

    Ranks synchronize when a layer has seen batch_num batches. A rank without another batch runs
    its last one again without updating statistics, so that it reaches the same collectives in the
    same order.
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
            raise ValueError("this process has no calibration batch, but others do")
        else:
            with _counting_only(layers):
                yield last
        missing = _missing(layers).items()
        waiting = any(int(layer.cur_batch) > start[path] for path, layer in missing)


def _few(names: Sequence[str]) -> str:
    """Return names in one line, at most the first few and how many more there are."""
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
