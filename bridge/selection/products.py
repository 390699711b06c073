"""Matrix products in a module's own code, which are not layers and cannot be replaced."""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bridge.modules import LAYER_CLASSES
from bridge.modules.ranges import RangedModule

_OF_ACTIVATIONS = (
    *("matmul", "bmm", "mm", "mv", "baddbmm", "addbmm", "einsum", "tensordot", "dot"),
    *("grouped_mm", "_grouped_mm"),
)
_WITH_A_WEIGHT = (
    *("linear", "bilinear", "addmm", "conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")
_NAMES = frozenset({*_OF_ACTIVATIONS, *_WITH_A_WEIGHT, *_ATTENTION})
_METHODS = frozenset({*_OF_ACTIVATIONS, "addmm"})
_HOMES = (torch, F)
_DEEPEST = 2
"""Depth to which calls of functions in the same package are followed."""


def own_products(module: nn.Module) -> list[str]:
    """Find the matrix products that a module's forward calls as functions or operators.

    The bytecode of forward and of the methods that it names is read, not run. Functions of other
    packages are not read, and dynamic dispatch is not resolved.

    Args:
        module: any module.
    Returns:
        names such as "F.linear" or "@", each once; empty for layers and for torch's own classes.
    """
    if isinstance(module, (RangedModule, torch.jit.ScriptModule, *LAYER_CLASSES)):
        return []
    found: dict[str, None] = {}
    names, waiting = {"forward"}, ["forward"]
    while waiting:
        method = inspect.getattr_static(type(module), waiting.pop(), None)
        for function in (method, inspect.unwrap(method) if callable(method) else None):
            if not isinstance(function, FunctionType) or _package(function) == "torch":
                continue
            found.update(dict.fromkeys(_in_function(function, _DEEPEST)))
            called = {name for code in _codes(function.__code__) for name in code.co_names}
            waiting += sorted(called - names)
            names |= called
    return list(found)


def advice(module: nn.Module, products: list[str]) -> str:
    """Return how to quantize products in a module's own code.

    Args:
        module: the module.
        products: from own_products.
    Returns:
        a message that names the products and the layers to use instead.
    """
    functions = {name.rpartition(".")[2] for name in products}
    weights = any(p is not None and p.ndim > 1 for p in module._parameters.values())
    how = []
    if not functions.isdisjoint(_WITH_A_WEIGHT):
        register = ", or register it (bridge.register_layer)"
        own = register if "weight" in module._parameters else ""
        how.append(f"hold its weight in an nn.Linear or nn.Conv and call that{own}")
    if not functions.isdisjoint({"@", *_OF_ACTIVATIONS, *_ATTENTION}):
        matmul = "use bridge.MatMulQAT for products of two activations"
        how.append(matmul + (", an nn.Linear for one with a weight" if weights else ""))
    return f"{', '.join(products)} in its own code stays in float: {'; '.join(how)}"


def _in_function(function: FunctionType, depth: int) -> Iterator[str]:
    for code in _codes(function.__code__):
        yield from _in_code(code, function, depth)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _in_code(code: CodeType, function: FunctionType, depth: int) -> Iterator[str]:
    reached: Any = None
    for step in dis.get_instructions(code):
        name = str(step.argval)
        if step.opname == "LOAD_GLOBAL":
            reached = function.__globals__.get(name)
            yield from _follow(reached, function, depth)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            known = isinstance(reached, ModuleType)
            reached = inspect.getattr_static(reached, name, None) if known else None
            if known and _is_product(reached):
                yield _shown(reached)
            elif not known and name in _METHODS:
                yield name
            else:
                yield from _follow(reached, function, depth)
        elif step.opname == "BINARY_OP" and step.argrepr in ("@", "@="):
            yield "@"
        elif step.opname.startswith("LOAD_"):
            reached = None


def _follow(reached: Any, function: FunctionType, depth: int) -> Iterator[str]:
    """Yield a product, or the products in a function of the same package."""
    if _is_product(reached):
        yield _shown(reached)
    elif depth and isinstance(reached, FunctionType) and _package(reached) == _package(function):
        yield from _in_function(reached, depth - 1)


def _is_product(value: Any) -> bool:
    return any(getattr(home, name, None) is value for home in _HOMES for name in _NAMES) and (
        value is not None
    )


def _shown(value: Any) -> str:
    for home, prefix in ((F, "F"), (torch, "torch")):
        for name in sorted(_NAMES):
            if getattr(home, name, None) is value:
                return f"{prefix}.{name}"
    return str(value)


def _package(function: FunctionType) -> str:
    return (function.__module__ or "").partition(".")[0]  # generated code has no module
