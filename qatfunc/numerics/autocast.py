"""Keeping autocast away from sums of integers."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_NOTHING = nullcontext()


def exact_types(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operators compute in the types they are given.

    Autocast would round sums of integers to bfloat16 or float16.

    Args:
        x: a tensor on the device that computes.
    Returns:
        a context that turns autocast off; one that does nothing where it is off already.
    """
    return torch.autocast(x.device.type, enabled=False) if autocasting(x) else _NOTHING


def autocasting(x: Tensor) -> bool:
    """Return whether autocast is on for a tensor's device.

    Args:
        x: any tensor; the meta device knows no autocast.
    Returns:
        True where operators would choose their types.
    """
    # Naming the device takes longer than asking about it.
    device = "cpu" if x.is_cpu else x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def widened(x: Tensor) -> Tensor:
    """Return a tensor in float32, and one that is so already as it is.

    An exporter records every conversion, also one of float32 to float32, with the type that it
    expects, and refuses its own record when it computes it again within autocast.

    Args:
        x: any tensor.
    Returns:
        float32 of x's shape.
    """
    return x if x.dtype == torch.float32 else x.to(torch.float32)
