"""Collectives of calibration: ranks exchange statistics and failures; training needs none."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn

__all__ = ["Group", "PeerError", "alone", "exchange", "report_failure", "reshard"]

Group = Any
"""A torch.distributed process group, or None for the group of all processes."""


class PeerError(RuntimeError):
    """Another rank failed, or is out of step with this one."""


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str


def alone(group: Group = None) -> bool:
    """Return whether this process calibrates without other ranks.

    Args:
        group: the processes that calibrate together.
    Returns:
        True if torch.distributed is not initialized or the group has one process.
    """
    ready = dist.is_available() and dist.is_initialized()
    return not ready or dist.get_world_size(group) == 1


def exchange(value: Any, group: Group = None) -> list[Any]:
    """Gather one value from every rank of a group.

    Args:
        value: of this process; it is pickled.
        group: the processes; each of them must call this.
    Returns:
        the values in the order of the ranks; [value] where this process is alone.
    Raises:
        PeerError: a rank called report_failure instead (the message names it), or the group
            cannot be reached.
    """
    if alone(group):
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(values, value, group=group)
    except RuntimeError as error:
        raise PeerError(f"the group cannot be reached: {error}") from error
    for rank, other in enumerate(values):
        if isinstance(other, _Failure):
            raise PeerError(f"calibration failed on rank {rank} of the group: {other.message}")
    return values


def report_failure(error: Exception, group: Group = None) -> None:
    """Raise PeerError on the other ranks of a group, which wait in `exchange`.

    Args:
        error: the exception of this process.
        group: the processes that wait.
    """
    if not alone(group) and not isinstance(error, PeerError):
        values = [None] * dist.get_world_size(group)
        dist.all_gather_object(values, _Failure(f"{type(error).__name__}: {error}"), group=group)


def reshard(model: nn.Module) -> None:
    """Free the parameters that a forward of a fully sharded model gathered.

    FSDP2's outermost module keeps them gathered after its forward: an optimizer built then would
    hold the gathered tensors instead of the shards.

    Args:
        model: any module; without FSDPModules nothing happens.
    """
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule  # slow to import

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
