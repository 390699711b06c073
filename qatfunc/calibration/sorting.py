"""Sorting, and the ends of sorted values, without sorting everything.

On a CPU NumPy does it, which sorts float32 values in a tenth of the time that torch takes.
"""

import numpy as np
import torch
from torch import Tensor

from qatfunc.numerics.concrete import reads_values

_BLOCK = 1 << 15
"""Values compared at once: they stay in a cache."""

_FIRST = 1 << 17
"""Values from which a tail is first taken."""


def ascending(x: Tensor) -> Tensor:
    """Return values from the smallest to the largest.

    Args:
        x: float32 (n,), no NaN.
    Returns:
        float32 (n,).
    """
    return torch.from_numpy(np.sort(x.numpy())) if reads_values(x) else torch.sort(x).values


def add_to_tail(tail: Tensor, x: Tensor, *, largest: bool) -> Tensor:
    """Return the largest, or smallest, of the values of a tail and of others.

    Args:
        tail: float32 (k,), ordered from its extreme value.
        x: float32 (n,), no NaN.
        largest: which values the tail holds.
    Returns:
        float32 (k,), ordered from its extreme value.
    """
    if not reads_values(x):
        return torch.topk(torch.cat([tail, x]), len(tail), largest=largest).values
    kept, values = tail.numpy(), x.numpy()
    start = 0
    while start < len(values):
        # As many values as were seen before hold few that are new to the tail.
        stop = max(2 * start, _FIRST)
        found = _beyond(values[start:stop], kept[-1], largest=largest)
        if len(found):
            kept = _extreme(np.concatenate([kept, found]), len(kept), largest=largest)
        start = stop
    return torch.from_numpy(kept.copy())


def _beyond(values: np.ndarray, end: np.float32, *, largest: bool) -> np.ndarray:
    """Return the values that are larger, or smaller, than the end of a tail."""
    blocks = (values[at : at + _BLOCK] for at in range(0, len(values), _BLOCK))
    return np.concatenate([block[block > end if largest else block < end] for block in blocks])


def _extreme(values: np.ndarray, count: int, *, largest: bool) -> np.ndarray:
    """Return the largest, or smallest, of more values than that, from the extreme one."""
    if largest:
        return np.sort(np.partition(values, -count)[-count:])[::-1]
    return np.sort(np.partition(values, count)[:count])
