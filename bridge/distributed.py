"""What the processes of a group tell each other while they calibrate, and only then."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import nn

Group = Any
"""A torch.distributed process group, or None for the group of all processes."""


class PeerError(RuntimeError):
    """Another process failed, or does something else than this one."""


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str


def alone(group: Group = None) -> bool:
    """Return whether this process has nobody to tell anything.

    Args:
        group: the processes that calibrate together.
    Returns:
        True where torch.distributed has not been initialized or the group is one process.
    """
    ready = dist.is_available() and dist.is_initialized()
    return not ready or dist.get_world_size(group) == 1


def exchange(value: Any, group: Group = None) -> list[Any]:
    """Return what every process of a group gives, in the order of their ranks.

    Args:
        value: what this process gives; it is pickled.
        group: who takes part; each of them must call this.
    Returns:
        one value a process; [value] where this process is alone.
    Raises:
        PeerError: a process reports a failure instead, naming its rank, or cannot be reached.
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
    """Let the other processes of a group, who wait in `exchange`, fail too.

    Args:
        error: what happened here.
        group: who waits.
    """
    if not alone(group) and not isinstance(error, PeerError):
        values = [None] * dist.get_world_size(group)
        dist.all_gather_object(values, _Failure(f"{type(error).__name__}: {error}"), group=group)


def reshard(model: nn.Module) -> None:
    """Let a fully sharded model hold its own parts again, and not what a forward has gathered.

    The outermost module keeps what it gathers: an optimizer made then would train the wrong
    tensors.

    Args:
        model: any module.
    """
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule  # takes long to import

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
