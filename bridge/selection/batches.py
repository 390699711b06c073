"""Calling a model on a batch, with errors that explain what a batch is."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridge.modules.ranges import RangedModule


def call(model: nn.Module, batch: Any) -> Any:
    """Call a model on a batch.

    Args:
        model: any module.
        batch: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
    Returns:
        the model's output.
    """
    arguments, keywords = _arguments(batch)
    return model(*arguments, **keywords)


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode without gradients or warnings, and restore its modes.

    Args:
        model: any module.
    """
    modes = {module: module.training for module in model.modules()}
    warned = {m: m._warned for m in modes if isinstance(m, RangedModule)}
    model.eval()
    for layer in warned:
        layer._warned = True
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for layer, before in warned.items():
            layer._warned = before


def check_batches(batches: Any) -> Iterator[Any]:
    """Return an iterator over batches, after a check that it is not a single batch.

    Args:
        batches: an iterable of batches; the rows of a tensor are batches.
    Returns:
        its iterator.
    Raises:
        TypeError: batches is a single batch, or not iterable.
    """
    wanted = "calibrate: batches must be an iterable of batches, such as a list or a DataLoader"
    if isinstance(batches, np.ndarray):
        raise TypeError(f"{wanted}, got a numpy array: [torch.from_numpy(array)] is a list of one")
    if isinstance(batches, Mapping):
        raise TypeError(f"{wanted}, got a {type(batches).__name__}: put it in a list, [batch]")
    # A map-style dataset, which has __getitem__ but not __iter__, is not an Iterable.
    iterable = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    if isinstance(batches, str | bytes | nn.Module) or not iterable:
        raise TypeError(f"{wanted}, got a {type(batches).__name__}")
    return iter(batches)


def stack_error(batches: Tensor, error: Exception) -> TypeError:
    """Return the error for a tensor whose first row is not a batch of the model.

    Args:
        batches: the tensor that was passed as batches.
        error: the exception that the model raised for its first row.
    Returns:
        the error to raise instead.
    """
    return TypeError(
        f"calibrate: the rows of a tensor, here of shape {tuple(batches.shape)}, are batches, and "
        f"its first row is not one: {error}. To pass a single batch, put it in a list, [batch]"
    )


def check_batch(model: nn.Module, batch: Any, where: str) -> None:
    """Raise unless a model's forward can be called with a batch.

    Args:
        model: any module.
        batch: a tensor, a tuple or list of arguments, or a dict of keyword arguments.
        where: name of the batch, for the message.
    Raises:
        TypeError: it contains numpy arrays, or forward does not take these arguments.
    """
    arguments, keywords = _arguments(batch)
    for value in (*arguments, *keywords.values()):
        if isinstance(value, np.ndarray):
            raise TypeError(f"{where} holds a numpy array: torch.from_numpy(array) makes a tensor")
    while isinstance(getattr(model, "module", None), nn.Module) and _is_wrapper(model):
        model = model.module  # type: ignore[assignment]
    forward = inspect.signature(model.forward)
    try:
        forward.bind(*arguments, **keywords)
    except TypeError as error:
        several = isinstance(batch, tuple | list) and len(batch) > 1
        hint = "; leave labels out, as (x for x, _ in loader) does" if several else ""
        raise TypeError(
            f"{where} is {_shown(batch)}, and {type(model).__name__}.forward takes {forward}: "
            f"{error}{hint}"
        ) from error


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _shown(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(map(repr, batch))}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def _is_wrapper(model: nn.Module) -> bool:
    home = type(model).__module__
    return home.startswith(("torch.nn.parallel.", "torch.distributed."))
