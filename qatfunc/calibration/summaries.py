"""Calibration data as the searches for ranges look it up: sorted values, or bins.

G(b) = sum over the data of max(b - x, 0) is exact over sorted values. Of a histogram, the bin that
holds b gives bounds of G only: its values lie between its edges and have a known sum, and
max(b - x, 0) is convex in x.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qatfunc.calibration.histogram import BINS
from qatfunc.calibration.sorting import ascending
from qatfunc.limits import SMALLEST_SCALE
from qatfunc.spec import SearchSpec

_HALF = BINS // 2


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


def percentile_ends(data: DataSummary, how: SearchSpec) -> tuple[Tensor, Tensor]:
    """Return the ends that the candidates are fractions of: max_init and min_init of search_clip.

    Args:
        data: the statistics of calibration.
        how: the percentiles.
    Returns:
        float32 scalars, at least 0 and at most 0.
    """
    high = torch.clamp(_kth(data.largest, data.total, how.max_percentile), min=0.0)
    return high, torch.clamp(_kth(data.smallest, data.total, how.min_percentile), max=0.0)


def tails_reach(data: DataSummary, how: SearchSpec) -> Tensor:
    """Return whether the values of both percentiles are known.

    Args:
        data: the statistics of calibration.
        how: the percentiles.
    Returns:
        bool scalar.
    """
    return _tail_reaches(data, how.max_percentile) & _tail_reaches(data, how.min_percentile)


def _rank(total: Tensor, percentile: float) -> Tensor:
    if 1.0 - percentile < SMALLEST_SCALE:
        return torch.ones_like(total)
    kept = torch.floor(total.to(torch.float64) * percentile).to(torch.int64)
    return torch.clamp(total - kept, min=1)


def _kth(tail: Tensor, total: Tensor, percentile: float) -> Tensor:
    return tail[torch.clamp(_rank(total, percentile) - 1, max=len(tail) - 1)]


def _tail_reaches(data: DataSummary, percentile: float) -> Tensor:
    return _rank(data.total, percentile) <= len(data.largest)


def _sums_before(values: Tensor) -> Tensor:
    """Return the sum of the values before each value, and the sum of all."""
    return F.pad(torch.cumsum(values, 0), (1, 0))
