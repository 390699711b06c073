"""Copies of a module that have its weights: torch.nn.DataParallel's replicas, and shallow copies.

A replica lives for one forward, so nothing that it writes is kept. It shares no state with the
module it comes from and writes none.
"""

from typing import TypeVar

from torch import nn

from bridge.modules.state.inference import makes_state
from bridge.modules.state.recomputed import Passes

_M = TypeVar("_M", bound=nn.Module)

_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_real", "_calibration")
"""What __dict__ holds of a module with learned ranges and what its methods change."""


def separate(copied: nn.Module) -> None:
    """Give a module that was made from another's __dict__ tables of its own.

    Args:
        copied: a module with learned ranges; the tensors in its tables stay the same.
    """
    for name in _TABLES:
        copied.__dict__[name] = copied.__dict__[name].copy()
    copied.__dict__["_passes"] = Passes()


@makes_state
def shallow_copy(module: _M, *, shared: set[str]) -> _M:
    """Return a module with the same weights, and state of its own.

    Args:
        module: with learned ranges.
        shared: names of the parameters that the copy has too; the others, and all buffers, are
            copied.
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
