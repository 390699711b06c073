"""Copies of a module that share its weights: torch.nn.DataParallel's replicas and copy.copy.

A replica lives for one forward, and what it writes is lost: it neither shares state with its
original nor writes any.
"""

from typing import TypeVar

from torch import nn

from bridge.modules.state.inference import makes_state
from bridge.modules.state.recomputed import Passes

_M = TypeVar("_M", bound=nn.Module)

_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_real", "_calibration")
"""The dicts and sets in a module's __dict__ that its methods change."""


def separate(copied: nn.Module) -> None:
    """Copy the tables of a module that shares them with its original, in place.

    Args:
        copied: a module with learned ranges, made from another's __dict__; the tensors in its
            tables stay shared.
    """
    for name in _TABLES:
        copied.__dict__[name] = copied.__dict__[name].copy()
    copied.__dict__["_passes"] = Passes()


@makes_state
def shallow_copy(module: _M, *, shared: set[str]) -> _M:
    """Return a copy of a module that shares the given parameters, and nothing else.

    Args:
        module: with learned ranges.
        shared: names of the parameters to share; the others, and all buffers, are copied.
    Returns:
        a module of the same class.
    """
    copied = module.__class__.__new__(module.__class__)
    copied.__dict__.update(module.__dict__)
    separate(copied)
    for name, parameter in module._parameters.items():
        if parameter is not None and name not in shared:
            own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            copied._parameters[name] = own
    for name, buffer in module._buffers.items():
        copied._buffers[name] = None if buffer is None else buffer.clone()
    return copied
