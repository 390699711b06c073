"""The range of an activation by its calibration statistics: extremes, or a search."""

from collections.abc import Callable

import torch

from qatfunc.calibration.both_ends import search_both_ends
from qatfunc.calibration.clip_search import ClipSearch, search_clip
from qatfunc.calibration.histogram import FULL, bin_width, whole_sums
from qatfunc.calibration.state import CalibrationState
from qatfunc.calibration.summaries import DataSummary, summarize_bins, summarize_values
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchMethod, SearchSpec

_SEARCHES: dict[SearchMethod, Callable[[DataSummary, ActivationSpec, SearchSpec], ClipSearch]] = {
    "mse": search_both_ends,
    "ifmr": search_clip,
}


def extremes(state: CalibrationState) -> Clip:
    """Return the range of all values, widened to include 0.

    Args:
        state: at least one batch.
    Returns:
        float32 scalars.
    Raises:
        ValueError: the state is empty.
    """
    if state.values.numel() == 0 and state.counts.numel() == 0:
        raise ValueError("calibration has seen no batch yet")
    if state.counts.numel() == 0:
        high, low = state.values.amax(), state.values.amin()
    else:
        high, low = state.largest[0], state.smallest[0]
    return Clip(torch.clamp(high, min=0.0), torch.clamp(low, max=0.0))


def search(state: CalibrationState, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    """Search the range with the smallest quantization error over the calibration data.

    Args:
        state: at least one batch.
        spec: the grid to search for.
        how: method, candidates and percentiles.
    Returns:
        the range, and whether it is certain that no other candidate has a smaller error.
    Raises:
        ValueError: the state is empty.
    Source: docs/semantics.md, 4.
    """
    found = _SEARCHES[how.method](_summary(state), spec, how)
    if state.counts.numel() == 0:
        return found
    return found._replace(certified=found.certified & (state.counts.amax() < FULL))


def finish(
    state: CalibrationState, spec: ActivationSpec | None = None, how: SearchSpec | None = None
) -> Clip:
    """Return the first range for an activation.

    After how.batch_num batches it is the result of the search, before that the extremes.

    Args:
        state: at least one batch.
        spec: the grid; the default ActivationSpec if left out.
        how: batch_num, method, candidates and percentiles; the default SearchSpec if left out.
    Returns:
        float32 scalars. With spec.fixed_min the lower end is 0.
    Raises:
        TypeError: spec or how has the wrong type.
        ValueError: the state is empty.
    Source: docs/semantics.md, 4.

    >>> from qatfunc import calibration
    >>> state = calibration.update(calibration.init(), torch.linspace(-1.0, 2.0, 1000))
    >>> calibration.finish(state)
    Clip(max=tensor(2.), min=tensor(-1.))
    """
    spec, how = spec or ActivationSpec(), how or SearchSpec()
    for name, given, kind in (("spec", spec, ActivationSpec), ("how", how, SearchSpec)):
        if not isinstance(given, kind):
            raise TypeError(f"{name} must be {kind.__name__}, got {given!r}")
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
    bins = state.bins
    return summarize_bins(
        total=state.total,
        counts=state.counts,
        sums=whole_sums(bins),
        width=bin_width(bins),
        largest=state.largest,
        smallest=state.smallest,
    )
