"""What torch.compile is to do at a call, without loading the compiler before something is compiled.

torch.compiler's own decorators import torch._dynamo where a function is defined, which takes longer
than all of `import bridge`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

import torch

from qatfunc.torch_internals import compiler_is_loaded, mark_constant_result

_P = ParamSpec("_P")
_T = TypeVar("_T")


def constant_result(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that the compiler calls once, at tracing, instead of tracing it.

    It has the mark that torch.compiler.assume_constant_result sets.

    Args:
        function: whose result is a constant of the compiled program.
    Returns:
        the same function.
    """
    mark_constant_result(function)
    return function


def uncompiled(*, reason: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate a function that is never compiled, nor what it calls.

    Args:
        reason: for torch.compiler.disable, which says it where fullgraph=True meets the function.
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
            hold_disabled()  # the compiler runs this before it looks at what is called
            return held.called(*args, **kwargs)

        return call

    return decorate


def in_graph(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that the compiler writes to its graph as one node, without a look inside.

    Args:
        function: of tensors and constants, as torch.compiler.allow_in_graph wants it.
    Returns:
        the decorated function.
    """

    @constant_result
    def allowed() -> bool:
        torch.compiler.allow_in_graph(function)
        return True

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        allowed()  # the compiler runs this before it looks at the function
        return function(*args, **kwargs)

    return call


@dataclass
class _Held(Generic[_P, _T]):
    """What a decorated function calls; the compiler reads an attribute when it is used."""

    called: Callable[_P, _T]
