"""Creating a module's state as ordinary tensors within torch.inference_mode.

A tensor created in inference mode can neither be trained nor be written to outside of it, so
training, loading a checkpoint, averaging weights or broadcasting buffers would fail later.
"""

import copy
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_P = ParamSpec("_P")
_T = TypeVar("_T")


def makes_state(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function to run outside inference mode, without gradients.

    Args:
        function: one that creates or writes tensors of a module's state.
    Returns:
        the decorated function.
    """

    @wraps(function)
    def outside_inference_mode(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not torch.is_inference_mode_enabled():
            with torch.no_grad():
                return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside_inference_mode


def ordinary(x: Tensor) -> Tensor:
    """Return a tensor that may become state; for use in functions decorated with makes_state.

    Args:
        x: any tensor.
    Returns:
        x, or a copy of it if x is an inference tensor.
    """
    return x.clone() if x.is_inference() else x


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model, with ordinary tensors also within inference mode.

    Args:
        model: any module.
    Returns:
        the copy.
    """
    with torch.inference_mode(mode=False):
        return copy.deepcopy(model)
