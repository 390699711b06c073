"""Keeping autocast away from sums of integers."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def exact_types(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operators compute in the types they are given.

    Autocast would round sums of integers to bfloat16 or float16.

    Args:
        x: a tensor on the device that computes.
    Returns:
        a context that turns autocast off; one that does nothing where it is off already.
    """
    # The meta device knows no autocast.
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
