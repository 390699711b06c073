"""Decorators for torch.compile that import torch._dynamo only when something is compiled.

torch.compiler's own decorators import it when a function is defined, which takes longer than all of
`import bridge`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

import torch

from qatfunc.numerics.torch_internals import compiler_is_loaded, mark_constant_result

_P = ParamSpec("_P")
_T = TypeVar("_T")


def constant_result(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Mark a function as torch.compiler.assume_constant_result does.

    The compiler calls the function once while tracing and compiles its result in as a constant.

    Args:
        function: any function.
    Returns:
        the same function.
    """
    mark_constant_result(function)
    return function


def uncompiled(*, reason: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Return a decorator that excludes a function from compilation, as torch.compiler.disable does.

    Args:
        reason: part of the error that a call raises under fullgraph=True.
    Returns:
        the decorator.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        held = _Held[_P, _T](function)

        @constant_result
        def hold_disabled() -> bool:
            if held.called is function and compiler_is_loaded():
                held.called = torch.compiler.disable(function, reason=reason)
            return True

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            hold_disabled()  # the compiler runs this before it resolves held.called
            return held.called(*args, **kwargs)

        return call

    return decorate


def in_graph(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function one node of a compiled graph, as torch.compiler.allow_in_graph does.

    Args:
        function: of tensors and constants; it is not traced into.
    Returns:
        the decorated function.
    """

    @constant_result
    def allowed() -> bool:
        torch.compiler.allow_in_graph(function)
        return True

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        allowed()  # the compiler runs this before it traces the call below
        return function(*args, **kwargs)

    return call


@dataclass
class _Held(Generic[_P, _T]):
    """The function that a decorated one calls; the compiler reads the attribute at the call."""

    called: Callable[_P, _T]
