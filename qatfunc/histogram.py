"""Filling a histogram and its tails in few passes over the values.

On a CPU values are taken in blocks that fit its caches, into copies of what was there before.
Elsewhere, and where somebody records or transforms what is computed, nothing may depend on values
and the same is done in whole tensors.
"""

import torch
from torch import Tensor

from qatfunc.numbers import reads_cheaply, traced, transformed

FULL = 2**31 - 1
"""A bin counts no further."""

_BLOCK = 1 << 17
"""Values whose indices and float64 copies stay in a cache."""

_ROW = 64
"""Values that are compared with the end of a tail at once."""


def add_to_bins(x: Tensor, width: Tensor, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Count values in bins and add them up; bin i holds [i - bins / 2, i + 1 - bins / 2) * width.

    Args:
        x: float32 (n,), within the bins.
        width: float64 scalar, a power of two.
        counts: int64 (bins,).
        sums: float64 (bins,).
    Returns:
        the new counts and sums.
    """
    half = len(counts) // 2
    if not _in_blocks(x):
        wide = x.to(torch.float64)
        index = torch.floor(wide / width).to(torch.int64) + half
        counts = counts.scatter_add(0, index, torch.ones_like(index))
        return counts, sums.scatter_add(0, index, wide)
    counts, sums, ones = counts.clone(), sums.clone(), counts.new_ones(min(len(x), _BLOCK))
    for block in x.split(_BLOCK):
        wide = block.to(torch.float64)
        index = torch.div(wide, width).floor_().add_(half).to(torch.int64)
        counts.scatter_add_(0, index, ones[: len(index)])
        sums.scatter_add_(0, index, wide)
    return counts, sums


def add_to_tail(tail: Tensor, x: Tensor, *, largest: bool) -> Tensor:
    """Return the largest, or smallest, of the values of a tail and of others.

    Args:
        tail: float32 (k,), ordered from its extreme value.
        x: float32 (n,).
        largest: which values the tail holds.
    Returns:
        float32 (k,), ordered from its extreme value.
    """
    if not _in_blocks(x):
        return torch.topk(torch.cat([tail, x]), len(tail), largest=largest).values
    start = 0
    while start < len(x):
        # As many values as were seen before hold few that are new to the tail.
        stop = max(2 * start, _BLOCK)
        found = _beyond(x[start:stop], tail[-1], largest=largest)
        if len(found):
            tail = torch.topk(torch.cat([tail, found]), len(tail), largest=largest).values
        start = stop
    return tail


def _beyond(x: Tensor, end: Tensor, *, largest: bool) -> Tensor:
    """Return the values that are larger, or smaller, than the end of a tail."""
    whole = len(x) - len(x) % _ROW
    rows = x[:whole].view(-1, _ROW)
    reach = rows.amax(1) if largest else rows.amin(1)
    some = torch.cat([rows[(reach > end) if largest else (reach < end)].flatten(), x[whole:]])
    return some[(some > end) if largest else (some < end)]


def _in_blocks(x: Tensor) -> bool:
    return reads_cheaply(x) and not traced() and not transformed()
