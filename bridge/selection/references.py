"""Layers that a model holds outside of its registered children, where none is replaced."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

from bridge.modules.ranges import RangedModule

_INTERNAL = frozenset(vars(nn.Module()))
_MOST_OBJECTS = 20_000
"""Limit of the search: an attribute may lead to all objects of a program."""
_FOREIGN = ("torch", "builtins", "numpy", "logging")
_KINDS: tuple[tuple[Any, str], ...] = (
    (dict, "a plain dict"),
    (list, "a plain list"),
    (tuple, "a tuple"),
    (set | frozenset, "a set"),
    (deque, "a deque"),
    (MethodType, "a bound method"),
    (partial, "a functools.partial"),
    (FunctionType, "a closure"),
    (nn.Module, "a module that is not registered"),
)


class Reference(NamedTuple):
    """A module that a model holds outside of its registered children."""

    module: nn.Module
    """The module."""
    where: str
    """Expression that reaches it from the model, such as "blocks.all[0]"."""
    kind: str
    """Kind of the object that holds it, such as "a plain list"."""


def held_elsewhere(model: nn.Module) -> dict[int, Reference]:
    """Find the modules in a model's lists, dicts, bound methods, closures and plain attributes.

    Args:
        model: any module.
    Returns:
        the first reference to each module, by the module's id; references by registered modules
        to their registered children are left out.
    """
    registered = {id(module) for module in model.modules()}
    found: dict[int, Reference] = {}
    seen: set[int] = set()
    queue = deque(_attributes_of_modules(model))
    while queue and len(seen) < _MOST_OBJECTS:
        value, where, kind = queue.popleft()
        if id(value) in seen or value is model:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = Reference(value, where, kind)
            if id(value) in registered or isinstance(value, RangedModule | torch.jit.ScriptModule):
                continue
        queue.extend((inner, f"{where}{step}", _kind_of(value)) for step, inner in _contents(value))
    return found


def _attributes_of_modules(model: nn.Module) -> Iterator[tuple[Any, str, str]]:
    for path, module in model.named_modules():
        if isinstance(module, RangedModule | torch.jit.ScriptModule):
            continue
        for name, value in vars(module).items():
            if name not in _INTERNAL:
                yield value, f"{path}.{name}" if path else name, "a plain attribute"


def _contents(value: Any) -> list[tuple[str, Any]]:
    """Return the objects that an object holds, each with the expression suffix that reaches it."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", inner) for key, inner in list(value.items())]
    if isinstance(value, list | tuple | deque):
        return [(f"[{index}]", inner) for index, inner in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [("", inner) for inner in value]
    if isinstance(value, MethodType):
        return [("", value.__self__)]
    if isinstance(value, partial):
        return [("", inner) for inner in (value.func, *value.args, *value.keywords.values())]
    if isinstance(value, FunctionType):
        return [("", inner) for inner in map(_cell, value.__closure__ or ())]
    if isinstance(value, nn.Module):
        own = [(f".{n}", v) for n, v in vars(value).items() if n not in _INTERNAL]
        return [*((f".{n}", child) for n, child in value._modules.items() if child), *own]
    if isinstance(value, type) or type(value).__module__.partition(".")[0] in _FOREIGN:
        return []
    return [(f".{name}", inner) for name, inner in getattr(value, "__dict__", {}).items()]


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _kind_of(value: Any) -> str:
    kinds = (kind for type_, kind in _KINDS if isinstance(value, type_))
    return next(kinds, f"an attribute of a {type(value).__name__}")
