"""One batch of data, as arguments of the torch model and as inputs of its files."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bridge.export.graph.constants import Array
from bridge.export.running.runtime import Feeds

_KINDS = (
    "a tensor, an array, a tuple or list of the model's positional arguments, or a dict by the "
    "names of its arguments or of the file's inputs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch.

    Args:
        arguments: positional arguments of the model's forward, copied.
        keywords: keyword arguments of forward, copied.
        feeds: arrays of the file's inputs, by name, copied.
    """

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    feeds: Feeds


def read_batch(data: Any, model: nn.Module | None, inputs: Sequence[ir.Value], path: Path) -> Batch:
    """Convert data to the arguments of a model and the inputs of its file.

    Args:
        data: a tensor, an array, a tuple or list of the model's positional arguments, or a dict
            by the names of its arguments or of the file's inputs.
        model: the torch model; None if only files are compared.
        inputs: inputs of the file that have no default value.
        path: of the file, for messages.
    Returns:
        the batch.
    Raises:
        TypeError: data has another type, or an input another dtype.
        ValueError: the number of inputs, their names or a shape do not fit the file.
    """
    names = [value.name or "" for value in inputs]
    if isinstance(data, Mapping):
        arguments, keywords = _by_name(data, model, names)
        by_file = set(data) == set(names)
        arrays = list(_leaves([data[name] for name in names] if by_file else keywords))
    elif isinstance(data, Tensor | np.ndarray | tuple | list):
        arguments, keywords = tuple(data) if isinstance(data, tuple | list) else (data,), {}
        arrays = list(_leaves(arguments))
    else:
        raise TypeError(f"data must be {_KINDS}; got {type(data).__name__}")
    if len(arrays) != len(names):
        raise ValueError(
            f"{path} takes {len(names)} inputs {names}, got {len(arrays)} arrays; data is one "
            "batch of the model's inputs, without labels"
        )
    feeds = {}
    for value, name, array in zip(inputs, names, arrays, strict=True):
        _check(value, array, path)
        feeds[name] = numpy_of(array).copy()  # the model may modify its input in place
    device = next((p.device for p in model.parameters()), None) if model is not None else None
    return Batch(
        arguments=_tensors(arguments, device), keywords=_tensors(keywords, device), feeds=feeds
    )


def flatten_outputs(output: Any) -> list[Tensor | int | float]:
    """Flatten a model's output in the order of the exporters.

    Args:
        output: tensors and numbers in nested tuples, lists, dicts and dataclasses; None and str
            are left out.
    Returns:
        the tensors and numbers.
    Raises:
        TypeError: output contains another type.
    """
    return list(_leaves(output, numbers=True))


def numpy_of(value: Tensor | Array | float) -> Array:
    """Convert a tensor, array or number to a NumPy array.

    Args:
        value: of any dtype; bfloat16, which NumPy does not have, becomes float32.
    Returns:
        the array; it may share memory with value.
    """
    if not isinstance(value, Tensor):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).resolve_neg().numpy()


def _leaves(value: Any, *, numbers: bool = False) -> Iterator[Any]:
    if isinstance(value, Tensor | np.ndarray):
        yield value
    elif isinstance(value, bool | int | float | np.generic):
        if numbers:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, numbers=numbers)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item, numbers=numbers)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), numbers=numbers)
    elif value is not None and not isinstance(value, str):
        raise TypeError(
            f"a {type(value).__name__} cannot be compared with an ONNX model's tensors; let "
            "inputs and outputs be tensors in tuples, lists, dicts or dataclasses"
        )


def _by_name(
    data: Mapping[str, Any], model: nn.Module | None, names: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments, the latter in signature order."""
    wanted: list[str] = []
    if model is not None:
        parameters = inspect.signature(model.forward).parameters
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        wanted = [name for name, p in parameters.items() if p.kind not in variadic]
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if set(data) <= set(wanted) or (free and set(data) != set(names)):
            order = [name for name in wanted if name in data]
            return (), {name: data[name] for name in dict.fromkeys([*order, *data])}
    if set(data) == set(names):
        return tuple(data[name] for name in names), {}
    forward = f"the model's forward takes {wanted} and " if model is not None else ""
    raise ValueError(f"data has {list(data)}, but {forward}the file has the inputs {list(names)}")


def _check(value: ir.Value, array: Tensor | Array, path: Path) -> None:
    """Raise unless an array has the dtype and a shape of an input."""
    got = str(array.dtype).removeprefix("torch.")
    wanted = None if value.dtype is None else str(value.dtype.numpy())
    if wanted is not None and got != wanted:
        raise TypeError(
            f"input {value.name!r} of {path} must be {wanted}, got {got}; x.to(torch.{wanted}) "
            f"or x.astype(np.{wanted})"
        )
    if value.shape is None:
        return
    shape = tuple(array.shape)
    fits = len(shape) == len(value.shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"input {value.name!r} of {path} must have the shape {value.shape}, got {shape}; "
            "axes that vary, such as the batch, are given to torch.onnx.export as dynamic_shapes "
            "(dynamic_axes with dynamo=False)"
        )


def _tensors(value: Any, device: torch.device | None) -> Any:
    """Copy nested containers, with arrays converted to tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()).to(device)
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        copies = {key: _tensors(item, device) for key, item in value.items()}
        return copies if type(value) is dict else type(value)(copies)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_tensors(item, device) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_tensors(item, device) for item in value)
    return value
