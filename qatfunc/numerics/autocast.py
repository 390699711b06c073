"""Switching autocast off where integers are summed."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_NOTHING = nullcontext()


def exact_types(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operators compute in the dtypes of their operands.

    Autocast would round sums of integers to bfloat16 or float16.

    Args:
        x: a tensor on the device that computes.
    Returns:
        a context that switches autocast off, or does nothing if it is off already.
    """
    return torch.autocast(x.device.type, enabled=False) if autocasting(x) else _NOTHING


def autocasting(x: Tensor) -> bool:
    """Return whether autocast is on for a tensor's device.

    Args:
        x: any tensor; there is no autocast for the meta device.
    Returns:
        True where autocast chooses the dtypes of operators.
    """
    # x.is_cpu is faster than x.device.
    device = "cpu" if x.is_cpu else x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def widened(x: Tensor) -> Tensor:
    """Convert a tensor to float32; return a float32 tensor unchanged.

    An exporter records a conversion from float32 to float32 with the dtype that it expects, and
    fails when it runs its own record under autocast.

    Args:
        x: any tensor.
    Returns:
        float32 of x's shape.
    """
    return x if x.dtype == torch.float32 else x.to(torch.float32)
