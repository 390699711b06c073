"""Histograms of float32 values, with exact counts and sums.

    bin half + m:      m * width <= x < (m + 1) * width
    bin half - 1 - m:  m * width <= -x < (m + 1) * width,  -x > 0

The width is a power of two, so widening the range merges whole bins. Sums are exact in any order:
float32 values of one binary exponent are multiples of one unit, and float64 adds 2^29 of them
without rounding. Each bin holds values of one exponent, except the two bins at 0, which are
therefore summed exponent by exponent.

On a CPU, NumPy bins the values in blocks that fit the cache, in a third of torch's time. On other
devices, and under tracing or transforms, operations on whole tensors do the same, and none of them
depends on values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qatfunc.limits import INT32_MAX
from qatfunc.numerics.concrete import reads_values

BINS = 65_536
"""Bins of a histogram, a power of two."""

FULL = INT32_MAX
"""The largest count of a bin, which saturates there."""

SMALLEST_EXPONENT = -100
"""The exponent of an empty histogram."""

_BLOCK = 1 << 15
"""Number of values whose indices and float64 copies fit the cache."""

_HALF = BINS // 2
_HALF_BITS = _HALF.bit_length() - 1
_LEAST_FREXP, _FREXPS = -148, 277
"""The smallest exponent that frexp returns for float32 numbers, and how many there are."""


class Bins(NamedTuple):
    """The bins of a histogram that spans (-2^exponent, 2^exponent)."""

    exponent: Tensor
    """int32 scalar."""
    counts: Tensor
    """int32 (BINS,), at most FULL."""
    sums: Tensor
    """float64 (BINS,), sum of the values in each bin but the two at 0, which have 0 here."""
    near: Tensor
    """float64 (2, 277), sums of the values in the two bins at 0, below and above, by exponent."""


def empty_bins(device: torch.device | str | None = None) -> Bins:
    """Return an empty histogram.

    Args:
        device: where the values are.
    Returns:
        the bins.
    """
    return Bins(
        exponent=torch.full((), SMALLEST_EXPONENT, dtype=torch.int32, device=device),
        counts=torch.zeros(BINS, dtype=torch.int32, device=device),
        sums=torch.zeros(BINS, dtype=torch.float64, device=device),
        near=torch.zeros(2, _FREXPS, dtype=torch.float64, device=device),
    )


def add_to_bins(bins: Bins, x: Tensor) -> Bins:
    """Add values to a histogram.

    Args:
        bins: the histogram so far; not modified.
        x: float32 (n,), finite.
    Returns:
        the new bins, wide enough for x.
    """
    # frexp gives |x| = m * 2^e with m in [0.5, 1): 2^e is the first power of two above |x|.
    low, high = torch.aminmax(x)
    reach = torch.frexp(torch.maximum(high, -low)).exponent
    wide = _widened(bins, torch.maximum(bins.exponent, reach))
    width = bin_width(wide)
    if not reads_values(x):
        index, values = _locate(x, width)
        counts = wide.counts.scatter_add(0, index, torch.ones_like(index))
        sums = wide.sums.scatter_add(0, index, values)
        near = wide.near + _by_exponent(x, torch.where(_is_near(x, width), values, 0.0))
    else:
        # _widened has copied them, so they may be changed in place.
        counts, sums = wide.counts, wide.sums
        small = _count_in_blocks(x.numpy(), wide, width.item(), signed=low.item() < 0)
        near = wide.near + _by_exponent(small, small.to(torch.float64))
    return Bins(wide.exponent, _saturated(counts), sums.index_fill(0, _at_zero(sums), 0.0), near)


def join_bins(many: Sequence[Bins]) -> Bins:
    """Merge histograms.

    Args:
        many: at least one, on one device.
    Returns:
        the bins.
    """
    exponent = torch.stack([bins.exponent for bins in many]).amax()
    wide = [_widened(bins, exponent) for bins in many]
    return Bins(
        exponent=exponent,
        counts=_saturated(torch.stack([bins.counts for bins in wide]).sum(0)),
        sums=torch.stack([bins.sums for bins in wide]).sum(0),
        near=torch.stack([bins.near for bins in wide]).sum(0),
    )


def bin_width(bins: Bins) -> Tensor:
    """Return the width of a bin.

    Args:
        bins: of any width.
    Returns:
        float64 scalar.
    """
    return torch.ldexp(torch.ones((), dtype=torch.float64), bins.exponent - _HALF_BITS)


def whole_sums(bins: Bins) -> Tensor:
    """Return the sum of the values in each bin; those of the two bins at 0 are rounded once.

    Args:
        bins: of any width.
    Returns:
        float64 (BINS,).
    """
    return bins.sums.index_copy(0, _at_zero(bins.sums), bins.near.sum(1))


def _count_in_blocks(values: np.ndarray, bins: Bins, width: float, *, signed: bool) -> Tensor:
    """Add values to counts and sums in place, and return the values of the two bins at 0."""
    per_bin, bound = np.float32(1.0 / width), np.float32(width)
    ones = bins.counts.new_ones(min(len(values), _BLOCK))
    near = []
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        bin_of = (block * per_bin).astype(np.int32)  # exact, and towards 0
        bin_of += _HALF
        if signed:
            bin_of -= block < 0
        index = torch.from_numpy(bin_of.astype(np.int64))
        bins.counts.scatter_add_(0, index, ones[: len(index)])
        bins.sums.scatter_add_(0, index, torch.from_numpy(block.astype(np.float64)))
        size = np.abs(block)
        near.append(block[(size < bound) & (size > 0)])
    return torch.from_numpy(np.concatenate(near))


def _locate(x: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bins of values, int64, and the values as float64."""
    values = x.to(torch.float64)
    # One ulp further from 0: this changes the bin only of negative values on an edge, which belong
    # to the outer bin. No other quotient of 24 bits is that close to an edge.
    quotients = torch.mul(values, (1.0 + torch.finfo(torch.float64).eps) / width)
    return quotients.floor_().add_(_HALF).to(torch.int64), values


def _is_near(x: Tensor, width: Tensor) -> Tensor:
    """Whether values are in the two bins at 0, and not 0."""
    size = x.abs()
    return (size < width.to(torch.float32)) & (size > 0)


def _at_zero(sums: Tensor) -> Tensor:
    """Indices of the two bins at 0."""
    return torch.arange(_HALF - 1, _HALF + 1, device=sums.device)


def _widened(bins: Bins, exponent: Tensor) -> Bins:
    """Merge bins until they span (-2^exponent, 2^exponent); counts are int64 then."""
    if reads_values(bins.sums) and not bool(bins.counts.any()):
        fresh = empty_bins(bins.sums.device)
        return fresh._replace(exponent=exponent, counts=fresh.counts.to(torch.int64))
    # Bins nest: m >> k is the bin of the wider grid that holds bin m of the finer one.
    side = torch.arange(_HALF, device=exponent.device)
    wider = side >> torch.clamp(exponent - bins.exponent, max=62)
    merged = torch.cat([_HALF - 1 - wider.flip(0), _HALF + wider])
    # A bin that merges into one of the bins at 0 is added to `near`, at its only exponent.
    lower = torch.cat([-side.flip(0), side]) * bin_width(bins)
    reaches_zero = torch.cat([wider.flip(0), wider]) == 0
    signed = torch.where(torch.arange(BINS, device=exponent.device) < _HALF, -1.0, 1.0)
    position = torch.where(lower == 0, signed, lower).to(torch.float32)
    counts = bins.counts.to(torch.int64)
    zeros = torch.zeros_like(bins.sums)
    return Bins(
        exponent=exponent,
        counts=torch.zeros_like(counts).scatter_add(0, merged, counts),
        sums=zeros.scatter_add(0, merged, torch.where(reaches_zero, 0.0, bins.sums)),
        near=bins.near + _by_exponent(position, torch.where(reaches_zero, bins.sums, 0.0)),
    )


def _saturated(counts: Tensor) -> Tensor:
    return torch.clamp(counts, max=FULL).to(torch.int32)


def _by_exponent(at: Tensor, amounts: Tensor) -> Tensor:
    """Sum amounts by the sign and the exponent of the float32 numbers `at`."""
    index = torch.frexp(at).exponent.to(torch.int64) - _LEAST_FREXP
    index = torch.where(at < 0, index, index + _FREXPS)
    zeros = torch.zeros(2 * _FREXPS, dtype=torch.float64, device=at.device)
    return zeros.scatter_add(0, index, amounts).reshape(2, _FREXPS)
