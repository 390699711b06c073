"""Calibration of an activation range, streamed: init, update with each batch, finish.

The state keeps the first values as they are. Past EXACT_VALUES of them it becomes a histogram on
a grid whose width is a power of two, so that widening the range merges whole bins and loses
nothing but resolution, together with the exact largest and smallest values. Its size does not
grow with the batches (1.1 MB at most).

States of different data merge into the state of all of it, in whatever order: what is summed is
summed exactly. Float32 values of one binary exponent are multiples of one unit, and 2^29 of them
add up without rounding in float64. Every bin holds one exponent only, except the two at 0, which
are therefore summed exponent by exponent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.clip_search import BINS, ClipSearch, DataSummary, search_clip, summarize_values
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec

EXACT_VALUES = 65_536
"""Values kept as they are; a search over them is exact."""

TAIL_VALUES = 4_096
"""Largest and smallest values kept exactly beside the histogram; covers a percentile of
0.999999 up to four thousand million values."""

_SMALLEST_EXPONENT = -100
_SIDE = BINS // 2
_SIDE_BITS = _SIDE.bit_length() - 1
_LEAST_FREXP, _FREXPS = -148, 277
"""Exponents that frexp gives to float32 numbers, and how many these are."""


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
    """int64 (BINS,) or (0,) while values are exact."""
    sums: Tensor
    """float64 (BINS,), sum of the values in each bin but the two at 0, or (0,)."""
    near: Tensor
    """float64 (2, 277), sums of the values in the two bins at 0, below and above, by exponent;
    or (2, 0)."""
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
        counts=torch.zeros(0, dtype=torch.int64, device=device),
        sums=torch.zeros(0, dtype=torch.float64, device=device),
        near=torch.zeros(2, 0, dtype=torch.float64, device=device),
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
        values = torch.cat([state.values, x])
        if values.numel() <= EXACT_VALUES:
            return state._replace(values=values)
        return _add_to_histogram(_empty_histogram(state), values)
    return _add_to_histogram(state, x)


def merge(states: Sequence[CalibrationState]) -> CalibrationState:
    """Return the state that has seen all that several have seen.

    Every order of merging and updating leads to the same range, in every bit, up to 2^29 values
    in a bin.

    Args:
        states: at least one, on one device; empty ones too.
    Returns:
        the state; its batches are those of all together.
    Raises:
        ValueError: there is none.

    >>> a, b = update(init(), torch.tensor([1.0, -2.0])), update(init(), torch.tensor([3.0]))
    >>> merge([a, b]).values
    tensor([ 1., -2.,  3.])
    """
    if not states:
        raise ValueError("merge needs at least one state, got none")
    batches = torch.stack([state.batches for state in states]).sum()
    values = torch.cat([state.values for state in states])
    histograms = [state for state in states if state.counts.numel()]
    if not histograms and values.numel() <= EXACT_VALUES:
        return init(values.device)._replace(batches=batches, values=values)
    total = _sum_histograms(histograms or [_empty_histogram(states[0])])
    if values.numel():
        total = _add_to_histogram(total, values)
    return total._replace(batches=batches)


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
    return search_clip(_summary(state), spec, how)


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
    edges = torch.arange(-_SIDE, _SIDE + 1, dtype=torch.float64, device=state.sums.device)
    return DataSummary(
        total=state.total,
        counts=state.counts,
        sums=state.sums.index_copy(0, _at_zero(state.sums), state.near.sum(1)),
        edges=edges * _width(state.exponent),
        largest=state.largest,
        smallest=state.smallest,
    )


def _width(exponent: Tensor) -> Tensor:
    """Width of a bin, float64."""
    return torch.ldexp(torch.ones((), dtype=torch.float64), exponent - _SIDE_BITS)


def _at_zero(sums: Tensor) -> Tensor:
    """Indices of the two bins at 0."""
    return torch.arange(_SIDE - 1, _SIDE + 1, device=sums.device)


def _empty_histogram(state: CalibrationState) -> CalibrationState:
    device = state.values.device
    return state._replace(
        values=torch.zeros(0, device=device),
        counts=torch.zeros(BINS, dtype=torch.int64, device=device),
        sums=torch.zeros(BINS, dtype=torch.float64, device=device),
        near=torch.zeros(2, _FREXPS, dtype=torch.float64, device=device),
        largest=torch.full((TAIL_VALUES,), -torch.inf, device=device),
        smallest=torch.full((TAIL_VALUES,), torch.inf, device=device),
    )


def _add_to_histogram(state: CalibrationState, x: Tensor) -> CalibrationState:
    # frexp gives |x| = m * 2^e with m in [0.5, 1): 2^e is the first power of two above |x|.
    highest = torch.frexp(x.abs().amax()).exponent
    state = _widened(state, torch.maximum(state.exponent, highest))
    # Bin m of either side holds m <= |x| / width < m + 1.
    wide = x.to(torch.float64)
    bins = (wide / _width(state.exponent)).to(torch.int64)
    small = x[(bins == 0) & (x != 0)]
    index = bins.sub_((x < 0).to(torch.int64)).add_(_SIDE)
    sums = state.sums.scatter_add(0, index, wide)
    return state._replace(
        total=state.total + x.numel(),
        counts=state.counts.scatter_add(0, index, torch.ones_like(index)),
        sums=sums.index_fill(0, _at_zero(sums), 0.0),
        near=state.near + _by_exponent(small, small.to(torch.float64)),
        largest=torch.topk(torch.cat([state.largest, x]), TAIL_VALUES).values,
        smallest=torch.topk(torch.cat([state.smallest, x]), TAIL_VALUES, largest=False).values,
    )


def _widened(state: CalibrationState, exponent: Tensor) -> CalibrationState:
    """Merge the bins of a histogram until it spans [-2^exponent, 2^exponent)."""
    # Bins nest: m >> k is the bin of the wider grid that holds bin m of the finer one.
    side = torch.arange(_SIDE, device=exponent.device)
    wider = side >> torch.clamp(exponent - state.exponent, max=62)
    merged = torch.cat([_SIDE - 1 - wider.flip(0), _SIDE + wider])
    # What comes to lie in the bins at 0 moves to its exponent: a bin beside 0 has only one.
    lower = torch.cat([-side.flip(0), side]) * _width(state.exponent)
    moves = torch.cat([wider.flip(0), wider]) == 0
    signed = torch.where(torch.arange(BINS, device=exponent.device) < _SIDE, -1.0, 1.0)
    position = torch.where(lower == 0, signed, lower).to(torch.float32)
    zeros = torch.zeros_like(state.sums)
    return state._replace(
        exponent=exponent,
        counts=torch.zeros_like(state.counts).scatter_add(0, merged, state.counts),
        sums=zeros.scatter_add(0, merged, torch.where(moves, 0.0, state.sums)),
        near=state.near + _by_exponent(position, torch.where(moves, state.sums, 0.0)),
    )


def _by_exponent(at: Tensor, amounts: Tensor) -> Tensor:
    """Sum amounts by the sign and the exponent of the float32 number that they belong to."""
    index = torch.frexp(at).exponent.to(torch.int64) - _LEAST_FREXP
    index = torch.where(at < 0, index, index + _FREXPS)
    zeros = torch.zeros(2 * _FREXPS, dtype=torch.float64, device=at.device)
    return zeros.scatter_add(0, index, amounts).reshape(2, _FREXPS)


def _sum_histograms(states: Sequence[CalibrationState]) -> CalibrationState:
    exponent = torch.stack([state.exponent for state in states]).amax()
    wide = [_widened(state, exponent) for state in states]
    largest = torch.cat([state.largest for state in wide])
    smallest = torch.cat([state.smallest for state in wide])
    return wide[0]._replace(
        values=wide[0].values[:0],
        total=torch.stack([state.total for state in wide]).sum(),
        counts=torch.stack([state.counts for state in wide]).sum(0),
        sums=torch.stack([state.sums for state in wide]).sum(0),
        near=torch.stack([state.near for state in wide]).sum(0),
        largest=torch.topk(largest, TAIL_VALUES).values,
        smallest=torch.topk(smallest, TAIL_VALUES, largest=False).values,
    )
