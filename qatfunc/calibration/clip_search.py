"""IFMR: the clip whose quantization error over the data is smallest.

A candidate with step s and cells k = kmin..kmax has the boundaries b_k = (k + 1/2) s between
cells k and k+1. Summed over the cells, its squared error is, up to the sum of x^2 that all
candidates share,

    kmax^2 s^2 N - 2 kmax s sum(x) - 2 s * sum over k of G(b_k),   G(b) = sum of max(b - x, 0)

so 61 passes over the data become look-ups in one table of prefix sums. With a histogram, a bin that
holds a boundary gives bounds of G only (its values lie between its edges and have a known sum, and
max(b - x, 0) is convex), and hence bounds of each candidate's error. The best candidate is
certified if its largest possible error is at most the smallest possible one of every other.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qatfunc.calibration.histogram import BINS
from qatfunc.calibration.sorting import ascending
from qatfunc.limits import SMALLEST_SCALE
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec

_HALF = BINS // 2

_BOUNDARIES = 16_384
"""Number of boundaries that are looked up at once."""


class DataSummary(Protocol):
    """Data over which the candidates' errors are computed."""

    @property
    def total(self) -> Tensor:
        """int64 scalar, number of values N."""

    @property
    def sum(self) -> Tensor:
        """float64 scalar, sum of all values."""

    @property
    def largest(self) -> Tensor:
        """float32, the largest values, descending."""

    @property
    def smallest(self) -> Tensor:
        """float32, the smallest values, ascending."""

    def integrals(self, boundaries: Tensor) -> tuple[Tensor, Tensor]:
        """Return a lower and an upper bound of G at boundaries, float64."""


class SortedValues(NamedTuple):
    """All values, so that G is known exactly."""

    ordered: Tensor
    """float64 (N,), ascending."""
    sums: Tensor
    """float64 (N + 1,), sum of the first i values."""

    @property
    def total(self) -> Tensor:
        """N."""
        return torch.full((), len(self.ordered), dtype=torch.int64, device=self.ordered.device)

    @property
    def sum(self) -> Tensor:
        """Sum of all values."""
        return self.sums[-1]

    @property
    def largest(self) -> Tensor:
        """All of them, descending."""
        return self.smallest.flip(0)

    @property
    def smallest(self) -> Tensor:
        """All of them, ascending."""
        return self.ordered.to(torch.float32)

    def integrals(self, boundaries: Tensor) -> tuple[Tensor, Tensor]:
        """Return G as both bounds."""
        below = torch.searchsorted(self.ordered, boundaries)
        found = boundaries * below - self.sums[below]
        return found, found


class BinnedValues(NamedTuple):
    """Bins of one width, which give bounds of G."""

    counts: Tensor
    """int64 or int32 (BINS,), values in each bin."""
    sums: Tensor
    """float64 (BINS,), their sums."""
    counts_before: Tensor
    """float64 (BINS + 1,), values in the bins before each."""
    sums_before: Tensor
    """float64 (BINS + 1,), their sums."""
    width: Tensor
    """float64 scalar, a power of two: bin i lies in [(i - BINS / 2) * width, that + width]."""
    total: Tensor
    largest: Tensor
    smallest: Tensor

    @property
    def sum(self) -> Tensor:
        """Sum of all values."""
        return self.sums_before[-1]

    def integrals(self, boundaries: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds of G, from the number and sum of the values in the bin of a boundary."""
        reached = torch.clamp(torch.ceil(boundaries / self.width) - 1.0, -_HALF - 1, _HALF)
        cell = reached.to(torch.int64) + _HALF
        inside = (cell >= 0) & (cell < BINS)
        index = torch.clamp(cell, 0, BINS - 1)
        below = torch.clamp(cell, 0, BINS)
        whole = boundaries * self.counts_before[below] - self.sums_before[below]
        # The bin that holds b: n values of mean m between its edges l and r.
        n = torch.where(inside, self.counts[index], 0).to(torch.float64)
        left = reached * self.width
        mean = self.sums[index] / torch.clamp(n, min=1.0)
        least = n * torch.clamp(boundaries - mean, min=0.0)
        most = n * (boundaries - left) * torch.clamp(left + self.width - mean, min=0.0) / self.width
        return whole + least, whole + torch.maximum(most, least)


class ClipSearch(NamedTuple):
    """The outcome of a search."""

    clip: Clip
    """The best candidate's range, float32 scalars."""
    scale: Tensor
    """The best candidate's scale, float32 scalar."""
    certified: Tensor
    """bool scalar: whether no other candidate can have a smaller error on this data."""


def summarize_values(x: Tensor) -> SortedValues:
    """Sort values and sum them from the left, for an exact search.

    Args:
        x: float32 (n,), n >= 1.
    Returns:
        the sorted values and their prefix sums.
    """
    ordered = ascending(x).to(torch.float64)
    return SortedValues(ordered, _sums_before(ordered))


def summarize_bins(
    *, total: Tensor, counts: Tensor, sums: Tensor, width: Tensor, largest: Tensor, smallest: Tensor
) -> BinnedValues:
    """Sum bins from the left, for a search with bounds.

    Args:
        total: int64 scalar, number of values.
        counts: int32 (BINS,), values in each bin.
        sums: float64 (BINS,), their sums.
        width: float64 scalar.
        largest: float32, the largest values, descending.
        smallest: float32, the smallest values, ascending.
    Returns:
        the bins and their prefix sums.
    """
    return BinnedValues(
        counts=counts,
        sums=sums,
        counts_before=_sums_before(counts.to(torch.float64)),
        sums_before=_sums_before(sums),
        width=width,
        total=total,
        largest=largest,
        smallest=smallest,
    )


def search_clip(data: DataSummary, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    """Return the candidate range with the smallest squared quantization error.

    max_init, min_init = the k-th largest and smallest value, k = N - floor(percentile * N),
    floored and capped at 0. Candidates c_i = M * r_i for r = arange(start, end, step):
        symmetric:  M = max(|max_init|, |min_init|), s_i = c_i / d with d = 2^(n-1) if
                    |max_init| < |min_init| else 2^(n-1) - 1; zero_point = 0
        otherwise:  M = max_init, s_i = (c_i - min_init) / (2^n - 1),
                    zero_point = -round(min_init / s) - 2^(n-1)
    Result: clip.max = (qmax - zero_point) * s, clip.min = (qmin - zero_point) * s of the best
    candidate, the first of equal ones. A step s below SMALLEST_SCALE is replaced by 1.

    Args:
        data: the statistics of calibration.
        spec: the grid.
        how: candidates and percentiles.
    Returns:
        the best candidate.
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
    """Return each candidate's scale and zero point, float32, by the reference's operations."""
    if how.symmetric:
        reach = torch.maximum(high.abs(), low.abs())
        below, above = torch.full_like(high, -spec.qmin), torch.full_like(high, spec.qmax)
        divisor = torch.where(high.abs() < low.abs(), below, above)
        steps = reach * ratios / divisor
        steps = torch.where(steps < SMALLEST_SCALE, torch.ones_like(steps), steps)
        return steps, torch.zeros_like(steps)
    steps = (high * ratios - low) / spec.steps
    steps = torch.where(steps < SMALLEST_SCALE, torch.ones_like(steps), steps)
    return steps, -torch.round(low / steps) + spec.qmin


def _error_bounds(
    data: DataSummary, steps: Tensor, zero_points: Tensor, spec: ActivationSpec
) -> tuple[Tensor, Tensor]:
    """Return bounds of each candidate's squared error, less the sum(x^2) that all share."""
    total = data.total.to(torch.float64)
    least, most = [], []
    cells = torch.arange(spec.steps, dtype=torch.float64, device=steps.device)
    together = max(1, _BOUNDARIES // spec.steps)
    candidates = torch.stack([steps, zero_points], 1).to(torch.float64)
    for group in candidates.split(together):
        step, zero_point = group.unbind(1)
        lowest, top = spec.qmin - zero_point, spec.qmax - zero_point
        boundaries = (cells + lowest[:, None] + 0.5) * step[:, None]
        fewest, largest = data.integrals(boundaries)
        base = top * step * (top * step * total - 2.0 * data.sum)
        least.append(base - 2.0 * step * largest.sum(1))
        most.append(base - 2.0 * step * fewest.sum(1))
    return torch.cat(least), torch.cat(most)


def _sums_before(values: Tensor) -> Tensor:
    """Return the sum of the values before each value, and the sum of all."""
    return F.pad(torch.cumsum(values, 0), (1, 0))
