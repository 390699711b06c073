"""IFMR: the clip whose quantization error over the data is smallest.

A candidate with step s and cells k = kmin..kmax has the boundaries b_k = (k + 1/2) s between
cells k and k+1. Summed over the cells, its squared error is, up to the sum of x^2 that all
candidates share,

    kmax^2 s^2 N - 2 kmax s sum(x) - 2 s * sum over k of G(b_k),   G(b) = sum of max(b - x, 0)

so 61 passes over the data become look-ups in one table of prefix sums. Where the data is a
histogram, a bin that holds a boundary gives G only within bounds (its values lie between its
edges and have a known sum, and max(b - x, 0) is convex), and so does each candidate's error: a
winner whose largest possible error is below every other's smallest one is certain.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.params import Clip
from qatfunc.spec import SMALLEST_SCALE, ActivationSpec, SearchSpec

BINS = 65_536
"""Bins of a histogram, a power of two."""

_BOUNDARIES = 16_384
"""How many boundaries are looked up at once."""


class DataSummary(NamedTuple):
    """Data as sorted cells: each value its own cell, or the bins of a histogram."""

    total: Tensor
    """int64 scalar, number of values N."""
    counts: Tensor
    """int64 or int32 (cells,)."""
    sums: Tensor
    """float64 (cells,), sum of the values in each cell."""
    edges: Tensor
    """float64 (cells + 1,), ascending: cell i lies in [edges[i], edges[i + 1]]."""
    largest: Tensor
    """float32, the largest values, descending."""
    smallest: Tensor
    """float32, the smallest values, ascending."""


class ClipSearch(NamedTuple):
    """The outcome of a search."""

    clip: Clip
    """The winner's range, float32 scalars."""
    scale: Tensor
    """The winner's step, float32 scalar."""
    certified: Tensor
    """bool scalar: no other candidate can have a smaller error on this data."""


def summarize_values(x: Tensor) -> DataSummary:
    """Sort values into cells of their own, over which a search is exact.

    Args:
        x: float32 (n,), n >= 1.
    Returns:
        a summary with one cell a value.
    """
    ordered = torch.sort(x).values
    wide = ordered.to(torch.float64)
    return DataSummary(
        total=torch.full((), x.numel(), dtype=torch.int64, device=x.device),
        counts=torch.ones(x.numel(), dtype=torch.int64, device=x.device),
        sums=wide,
        edges=torch.cat([wide, wide[-1:]]),
        largest=ordered.flip(0),
        smallest=ordered,
    )


def search_clip(data: DataSummary, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    """Return the candidate range with the smallest squared quantization error.

    max_init, min_init = the k-th largest and smallest value, k = N - floor(percentile * N),
    floored and capped at 0. Candidates c_i = M * r_i for r = arange(start, end, step):
        symmetric:  M = max(|max_init|, |min_init|), s_i = c_i / d with d = 2^(n-1) if
                    |max_init| < |min_init| else 2^(n-1) - 1; zero_point = 0
        otherwise:  M = max_init, s_i = (c_i - min_init) / (2^n - 1),
                    zero_point = -round(min_init / s) - 2^(n-1)
    Result: clip.max = (qmax - zero_point) * s, clip.min = (qmin - zero_point) * s; the first of
    equals wins. Where the data has no extent the step is 1.

    Args:
        data: what calibration saw.
        spec: the grid.
        how: candidates and percentiles.
    Returns:
        the winner.
    Source: docs/semantics.md, 4; AMCT ifmr.
    """
    high = torch.clamp(_kth(data.largest, data.total, how.max_percentile), min=0.0)
    low = torch.clamp(_kth(data.smallest, data.total, how.min_percentile), max=0.0)
    ratios = torch.arange(how.start, how.end, how.step, dtype=torch.float32, device=high.device)
    steps, zero_points = _candidates(high, low, ratios, spec, how)
    least, most = _error_bounds(data, steps, zero_points, spec)
    best = torch.argmin((least + most) / 2)
    others = torch.where(torch.arange(len(ratios), device=best.device) == best, torch.inf, least)
    step, zero_point = steps[best], zero_points[best]
    clip = Clip((spec.qmax - zero_point) * step, (spec.qmin - zero_point) * step)
    reached = _tail_reaches(data, how.max_percentile) & _tail_reaches(data, how.min_percentile)
    return ClipSearch(clip, step, reached & (most[best] <= others.amin()))


def _rank(total: Tensor, percentile: float) -> Tensor:
    if 1.0 - percentile < SMALLEST_SCALE:
        return torch.ones_like(total)
    kept = torch.floor(total.to(torch.float64) * percentile).to(torch.int64)
    return torch.clamp(total - kept, min=1)


def _kth(tail: Tensor, total: Tensor, percentile: float) -> Tensor:
    return tail[torch.clamp(_rank(total, percentile) - 1, max=len(tail) - 1)]


def _tail_reaches(data: DataSummary, percentile: float) -> Tensor:
    return _rank(data.total, percentile) <= len(data.largest)


def _candidates(
    high: Tensor, low: Tensor, ratios: Tensor, spec: ActivationSpec, how: SearchSpec
) -> tuple[Tensor, Tensor]:
    """Step and zero point of each candidate, float32, in the reference's order of operations."""
    if how.symmetric:
        reach = torch.maximum(high.abs(), low.abs())
        divisor = torch.where(high.abs() < low.abs(), float(-spec.qmin), float(spec.qmax))
        steps = reach * ratios / divisor
        steps = torch.where(steps < SMALLEST_SCALE, torch.ones_like(steps), steps)
        return steps, torch.zeros_like(steps)
    steps = (high * ratios - low) / spec.steps
    steps = torch.where(steps < SMALLEST_SCALE, torch.ones_like(steps), steps)
    return steps, -torch.round(low / steps) + spec.qmin


def _error_bounds(
    data: DataSummary, steps: Tensor, zero_points: Tensor, spec: ActivationSpec
) -> tuple[Tensor, Tensor]:
    """Smallest and largest possible squared error of each candidate, short of sum(x^2)."""
    zero = torch.zeros(1, dtype=torch.float64, device=data.sums.device)
    counts = torch.cat([zero, torch.cumsum(data.counts.to(torch.float64), 0)])
    sums = torch.cat([zero, torch.cumsum(data.sums, 0)])
    least, most = [], []
    cells = torch.arange(spec.steps, dtype=torch.float64, device=steps.device)
    together = max(1, _BOUNDARIES // spec.steps)
    candidates = torch.stack([steps, zero_points], 1).to(torch.float64)
    for group in candidates.split(together):
        step, zero_point = group.unbind(1)
        lowest, top = spec.qmin - zero_point, spec.qmax - zero_point
        boundaries = (cells + lowest[:, None] + 0.5) * step[:, None]
        fewest, largest = _tail_integral(data, counts, sums, boundaries)
        base = top * step * (top * step * counts[-1] - 2.0 * sums[-1])
        least.append(base - 2.0 * step * largest)
        most.append(base - 2.0 * step * fewest)
    return torch.cat(least), torch.cat(most)


def _tail_integral(
    data: DataSummary, counts: Tensor, sums: Tensor, boundaries: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds on each row's sum over boundaries b of G(b) = sum of max(b - x, 0)."""
    cell = torch.searchsorted(data.edges, boundaries) - 1
    inside = (cell >= 0) & (cell < len(data.counts))
    index = torch.clamp(cell, 0, len(data.counts) - 1)
    below = torch.where(cell < 0, 0, torch.clamp(cell, max=len(data.counts)))
    whole = boundaries * counts[below] - sums[below]
    # The cell that holds b: n values of mean m between its edges l and r.
    n = torch.where(inside, data.counts[index], 0).to(torch.float64)
    left, right = data.edges[index], data.edges[index + 1]
    mean = data.sums[index] / torch.clamp(n, min=1.0)
    least = n * torch.clamp(boundaries - mean, min=0.0)
    extent = torch.clamp(right - left, min=torch.finfo(torch.float64).tiny)
    most = n * (boundaries - left) * torch.clamp(right - mean, min=0.0) / extent
    most = torch.maximum(torch.where(inside, most, 0.0), least)
    return (whole + least).sum(1), (whole + most).sum(1)
