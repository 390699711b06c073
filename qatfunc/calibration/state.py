"""Calibration of an activation range, streamed: init, update with each batch, finish.

The state holds up to EXACT_VALUES values unchanged. Beyond that it holds a histogram (see
histogram.py) and the largest and smallest values, exactly. Its size is limited to 0.82 MB. A bin
counts up to FULL values; if one is full, no result of the search is certified.

States of different data can be merged, in any order, into the state of all the data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.calibration.histogram import (
    SMALLEST_EXPONENT,
    Bins,
    add_to_bins,
    empty_bins,
    join_bins,
)
from qatfunc.calibration.sorting import add_to_tail

EXACT_VALUES = 65_536
"""Number of values that are kept unchanged; a search over them is exact."""

TAIL_VALUES = 4_096
"""Number of largest, and of smallest, values that are kept besides the histogram.

That is enough for a percentile of 0.999999 of four thousand million values.
"""


class CalibrationState(NamedTuple):
    """Calibration statistics of one activation."""

    batches: Tensor
    """int64 scalar, number of updates."""
    values: Tensor
    """float32 (n,), every value seen while n <= EXACT_VALUES, empty afterwards."""
    total: Tensor
    """int64 scalar, number of values in the histogram."""
    exponent: Tensor
    """int32 scalar; the histogram spans (-2^exponent, 2^exponent)."""
    counts: Tensor
    """int32 (BINS,), at most FULL, or (0,) while values are exact."""
    sums: Tensor
    """float64 (BINS,), sum of the values in each bin but the two at 0, or (0,)."""
    near: Tensor
    """float64 (2, 277), sums of the values in the two bins at 0, below and above, by exponent;
    or (2, 0)."""
    largest: Tensor
    """float32 (TAIL_VALUES,) descending, or (0,)."""
    smallest: Tensor
    """float32 (TAIL_VALUES,) ascending, or (0,)."""

    @property
    def bins(self) -> Bins:
        """The histogram alone."""
        return Bins(self.exponent, self.counts, self.sums, self.near)


def init(device: torch.device | str | None = None) -> CalibrationState:
    """Return the empty state.

    Args:
        device: where the activations are.
    Returns:
        an empty state.
    """
    return CalibrationState(
        batches=torch.zeros((), dtype=torch.int64, device=device),
        values=torch.zeros(0, dtype=torch.float32, device=device),
        total=torch.zeros((), dtype=torch.int64, device=device),
        exponent=torch.full((), SMALLEST_EXPONENT, dtype=torch.int32, device=device),
        counts=torch.zeros(0, dtype=torch.int32, device=device),
        sums=torch.zeros(0, dtype=torch.float64, device=device),
        near=torch.zeros(2, 0, dtype=torch.float64, device=device),
        largest=torch.zeros(0, dtype=torch.float32, device=device),
        smallest=torch.zeros(0, dtype=torch.float32, device=device),
    )


def update(state: CalibrationState, x: Tensor) -> CalibrationState:
    """Add a batch to the statistics.

    Args:
        state: the statistics so far; not modified.
        x: float32, any shape, finite. Values are not checked, see check_input.
    Returns:
        the new state.
    Raises:
        TypeError: state or x has the wrong type.
        ValueError: x has no elements.
    """
    if not isinstance(state, CalibrationState):
        raise TypeError(f"state must be what init() returned, got {type(state).__name__}")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a float32 torch.Tensor, got {type(x).__name__}")
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


def merge(states: Sequence[CalibrationState]) -> CalibrationState:
    """Merge the statistics of several parts of the data.

    Every order of merging and updating leads to the same range, bit for bit, up to 2^29 values in
    a bin.

    Args:
        states: at least one, on one device; empty ones too.
    Returns:
        the state of all the data, with the sum of their batches.
    Raises:
        ValueError: states is empty.

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


def _empty_histogram(state: CalibrationState) -> CalibrationState:
    device = state.values.device
    reached = torch.full((TAIL_VALUES,), torch.inf, dtype=torch.float32, device=device)
    return state._replace(
        values=torch.zeros(0, dtype=torch.float32, device=device),
        largest=-reached,
        smallest=reached,
        **empty_bins(device)._asdict(),
    )


def _add_to_histogram(state: CalibrationState, x: Tensor) -> CalibrationState:
    return state._replace(
        total=state.total + x.numel(),
        largest=add_to_tail(state.largest, x, largest=True),
        smallest=add_to_tail(state.smallest, x, largest=False),
        **add_to_bins(state.bins, x)._asdict(),
    )


def _sum_histograms(states: Sequence[CalibrationState]) -> CalibrationState:
    largest = torch.cat([state.largest for state in states])
    smallest = torch.cat([state.smallest for state in states])
    return states[0]._replace(
        values=states[0].values[:0],
        total=torch.stack([state.total for state in states]).sum(),
        largest=torch.topk(largest, TAIL_VALUES).values,
        smallest=torch.topk(smallest, TAIL_VALUES, largest=False).values,
        **join_bins([state.bins for state in states])._asdict(),
    )
