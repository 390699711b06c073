"""IFMR: the clip whose quantization error over the data is smallest.

A candidate with step s and cells k = kmin..kmax has the boundaries b_k = (k + 1/2) s between
cells k and k+1. Summed over the cells, its squared error is, up to the sum of x^2 that all
candidates share,

    kmax^2 s^2 N - 2 kmax s sum(x) - 2 s * sum over k of G(b_k),   G(b) = sum of max(b - x, 0)

so 61 passes over the data become look-ups in one table of prefix sums (see summaries.py). With a
histogram they give bounds of each candidate's error. The best candidate is certified if its largest
possible error is at most the smallest possible one of every other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.calibration.summaries import DataSummary, percentile_ends, tails_reach
from qatfunc.limits import SMALLEST_SCALE
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec

_BOUNDARIES = 16_384
"""Number of boundaries that are looked up at once."""


class ClipSearch(NamedTuple):
    """The outcome of a search."""

    clip: Clip
    """The best candidate's range, float32 scalars."""
    scale: Tensor
    """The best candidate's scale, float32 scalar."""
    certified: Tensor
    """bool scalar: whether no other candidate can have a smaller error on this data."""


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
    high, low = percentile_ends(data, how)
    ratios = candidate_ratios(how, high.device)
    steps, zero_points = _candidates(high, low, ratios, spec, how)
    least, most = error_bounds(data, steps, zero_points, spec)
    best = torch.argmin((least + most) / 2)
    others = torch.where(torch.arange(len(ratios), device=best.device) == best, torch.inf, least)
    step, zero_point = steps[best], zero_points[best]
    clip = Clip((spec.qmax - zero_point) * step, (spec.qmin - zero_point) * step)
    return ClipSearch(clip, step, tails_reach(data, how) & (most[best] <= others.amin()))


def candidate_ratios(how: SearchSpec, device: torch.device) -> Tensor:
    """Return the candidates as fractions of an end.

    Args:
        how: first, last and distance.
        device: of the result.
    Returns:
        float32 (n,).
    """
    return torch.arange(how.start, how.end, how.step, dtype=torch.float32, device=device)


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


def error_bounds(
    data: DataSummary, steps: Tensor, zero_points: Tensor, spec: ActivationSpec
) -> tuple[Tensor, Tensor]:
    """Return bounds of each candidate's squared error, less the sum(x^2) that all share.

    Args:
        data: the statistics of calibration.
        steps: float32 (n,), scales.
        zero_points: float32 (n,).
        spec: the grid.
    Returns:
        lower and upper bounds, float64 (n,).
    """
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
