"""State that outlives torch.inference_mode.

A tensor made in inference mode can neither be trained nor be written to outside of it, so loading
a checkpoint, averaging weights or broadcasting buffers would fail later. What a module keeps is
therefore made as an ordinary tensor, whatever the caller's mode.
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
    """Decorate a function that makes state: it runs outside inference mode, without gradients.

    Args:
        function: whose tensors a module keeps.
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
    """Return a tensor that may be kept, for use within a function that makes state.

    Args:
        x: any tensor.
    Returns:
        x, or its copy where x was made in inference mode.
    """
    return x.clone() if x.is_inference() else x


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model whose tensors can be trained, also within inference mode.

    Args:
        model: any module.
    Returns:
        its copy.
    """
    with torch.inference_mode(mode=False):
        return copy.deepcopy(model)
