"""Calibration of an activation range, streamed: init, update with each batch, finish.

The state keeps the first values as they are. Past EXACT_VALUES of them it becomes a histogram on
a grid whose width is a power of two, so that widening the range merges whole bins and loses
nothing but resolution, together with the exact largest and smallest values. Its size does not
grow with the batches (0.82 MB at most). A bin counts up to FULL values; where one has more, no
winner is certified any more.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.clip_search import BINS, ClipSearch, DataSummary, search_clip, summarize_values
from qatfunc.histogram import FULL, add_to_bins, add_to_tail
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec

EXACT_VALUES = 65_536
"""Values kept as they are; a search over them is exact."""

TAIL_VALUES = 4_096
"""Largest and smallest values kept exactly beside the histogram; covers a percentile of
0.999999 up to four thousand million values."""

_SMALLEST_EXPONENT = -100


class CalibrationState(NamedTuple):
    """What calibration has seen of one activation."""

    batches: Tensor
    """int64 scalar, updates so far."""
    values: Tensor
    """float32 (n,), every value seen while n <= EXACT_VALUES, empty afterwards."""
    total: Tensor
    """int64 scalar, number of values in the histogram."""
    exponent: Tensor
    """int32 scalar; the histogram spans [-2^exponent, 2^exponent)."""
    counts: Tensor
    """int32 (BINS,), at most FULL, or (0,) while values are exact."""
    sums: Tensor
    """float64 (BINS,), sum of the values in each bin, or (0,)."""
    largest: Tensor
    """float32 (TAIL_VALUES,) descending, or (0,)."""
    smallest: Tensor
    """float32 (TAIL_VALUES,) ascending, or (0,)."""


def init(device: torch.device | str | None = None) -> CalibrationState:
    """Return the state that has seen nothing.

    Args:
        device: where the activations are.
    Returns:
        an empty state.
    """
    return CalibrationState(
        batches=torch.zeros((), dtype=torch.int64, device=device),
        values=torch.zeros(0, device=device),
        total=torch.zeros((), dtype=torch.int64, device=device),
        exponent=torch.full((), _SMALLEST_EXPONENT, dtype=torch.int32, device=device),
        counts=torch.zeros(0, dtype=torch.int32, device=device),
        sums=torch.zeros(0, dtype=torch.float64, device=device),
        largest=torch.zeros(0, device=device),
        smallest=torch.zeros(0, device=device),
    )


def update(state: CalibrationState, x: Tensor) -> CalibrationState:
    """Take a batch into account.

    Args:
        state: what was seen before; it is left as it is.
        x: float32, any shape, finite (not checked here: a check would wait for the device).
    Returns:
        the new state.
    Raises:
        ValueError: x has no elements.
    """
    if x.numel() == 0:
        raise ValueError(f"calibration batch has no elements, its shape is {tuple(x.shape)}")
    x = x.detach().flatten().to(torch.float32)
    state = state._replace(batches=state.batches + 1)
    if state.counts.numel() == 0:
        values = torch.cat([state.values, x]) if state.values.numel() else x
        if values.numel() <= EXACT_VALUES:
            return state._replace(values=values.clone() if values is x else values)
        return _add_to_histogram(_empty_histogram(state), values)
    return _add_to_histogram(state, x)


def extremes(state: CalibrationState) -> Clip:
    """Return the range that holds every value seen, widened to hold 0.

    Args:
        state: at least one batch.
    Returns:
        float32 scalars.
    Raises:
        ValueError: nothing was seen yet.
    """
    if state.values.numel() == 0 and state.counts.numel() == 0:
        raise ValueError("calibration has seen no batch yet")
    if state.counts.numel() == 0:
        high, low = state.values.amax(), state.values.amin()
    else:
        high, low = state.largest[0], state.smallest[0]
    return Clip(torch.clamp(high, min=0.0), torch.clamp(low, max=0.0))


def search(state: CalibrationState, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    """Search the clip over everything seen and say whether the winner is certain.

    Args:
        state: at least one batch.
        spec: the grid to search for.
        how: candidates and percentiles.
    Returns:
        the clip, and whether no other candidate can have a smaller error.
    Raises:
        ValueError: nothing was seen yet.
    """
    found = search_clip(_summary(state), spec, how)
    if state.counts.numel() == 0:
        return found
    return found._replace(certified=found.certified & (state.counts.amax() < FULL))


def finish(
    state: CalibrationState, spec: ActivationSpec | None = None, how: SearchSpec | None = None
) -> Clip:
    """Return the first range for an activation.

    After how.batch_num batches it is the winner of the clip search; before that, the running
    extremes.

    Args:
        state: at least one batch.
        spec: the grid; the default ActivationSpec if left out.
        how: batch_num, candidates and percentiles; the default SearchSpec if left out.
    Returns:
        float32 scalars. With spec.fixed_min the lower end is 0.
    Raises:
        ValueError: nothing was seen yet.
    Source: docs/semantics.md, 4.

    >>> state = update(init(), torch.linspace(-1.0, 2.0, 1000))
    >>> finish(state)
    Clip(max=tensor(2.), min=tensor(-2.0157))
    """
    spec, how = spec or ActivationSpec(), how or SearchSpec()
    seen = extremes(state)
    found = search(state, spec, how).clip
    enough = state.batches >= how.batch_num
    low = torch.where(enough, found.min, seen.min)
    return Clip(
        torch.where(enough, found.max, seen.max), torch.zeros_like(low) if spec.fixed_min else low
    )


def _summary(state: CalibrationState) -> DataSummary:
    if state.counts.numel() == 0:
        if state.values.numel() == 0:
            raise ValueError("calibration has seen no batch yet")
        return summarize_values(state.values)
    width = torch.ldexp(torch.ones((), dtype=torch.float64), state.exponent - _BIN_BITS)
    edges = torch.arange(-BINS // 2, BINS // 2 + 1, dtype=torch.float64, device=state.sums.device)
    return DataSummary(
        total=state.total,
        counts=state.counts,
        sums=state.sums,
        edges=edges * width,
        largest=state.largest,
        smallest=state.smallest,
    )


_BIN_BITS = (BINS // 2).bit_length() - 1


def _empty_histogram(state: CalibrationState) -> CalibrationState:
    device = state.values.device
    return state._replace(
        values=torch.zeros(0, device=device),
        counts=torch.zeros(BINS, dtype=torch.int32, device=device),
        sums=torch.zeros(BINS, dtype=torch.float64, device=device),
        largest=torch.full((TAIL_VALUES,), -torch.inf, device=device),
        smallest=torch.full((TAIL_VALUES,), torch.inf, device=device),
    )


def _add_to_histogram(state: CalibrationState, x: Tensor) -> CalibrationState:
    # frexp gives |x| = m * 2^e with m in [0.5, 1): 2^e is the first power of two above |x|.
    low, high = torch.aminmax(x)
    reach = torch.maximum(high, -low)
    exponent = torch.maximum(state.exponent, torch.frexp(reach).exponent)
    # Bins nest: floor(j / 2^k) is the bin of the wider grid that holds bin j of the finer one.
    bins = torch.arange(-BINS // 2, BINS // 2, device=x.device)
    merged = (bins >> torch.clamp(exponent - state.exponent, max=62)) + BINS // 2
    width = torch.ldexp(torch.ones((), dtype=torch.float64), exponent - _BIN_BITS)
    before = state.counts.to(torch.int64)
    counts, sums = add_to_bins(
        x,
        width,
        torch.zeros_like(before).scatter_add(0, merged, before),
        torch.zeros_like(state.sums).scatter_add(0, merged, state.sums),
    )
    return state._replace(
        total=state.total + x.numel(),
        exponent=exponent,
        counts=torch.clamp(counts, max=FULL).to(torch.int32),
        sums=sums,
        largest=add_to_tail(state.largest, x, largest=True),
        smallest=add_to_tail(state.smallest, x, largest=False),
    )
