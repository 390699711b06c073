"""The range with the smallest mean squared error, searched over both ends.

The candidates are all pairs of an upper and a lower end; the error of a pair is computed with the
scale and the zero point that quantization will derive from it. Data without negative values has a
lower end of exactly 0, data without positive values an upper end of exactly 0.

Errors come from one table of prefix sums, as in clip_search.py, or, for few values, from quantizing
the values. If the pairs are too many for both, as on 16-bit grids, the upper end is searched first,
with one lower end, then the lower end with the best upper end. The result is then certified only if
one end is 0, because only then every candidate was compared.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.calibration.clip_search import ClipSearch, candidate_ratios, error_bounds
from qatfunc.calibration.summaries import (
    DataSummary,
    SortedValues,
    percentile_ends,
    tails_reach,
)
from qatfunc.numerics.concrete import reads_values
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec
from qatfunc.ulq import range_scale

_AFFORDABLE = 1 << 24
"""Number of look-ups up to which all pairs are compared; 60 x 60 of an 8-bit grid need 2^20."""

_FEW = 8
"""Number of values per step of the grid up to which quantizing them is faster than looking up."""

_VALUES = 1 << 15
"""Number of values that are quantized at once, which fit the cache."""


class _Measured(NamedTuple):
    """Candidates, float32 (n,), and bounds of their errors, float64 (n,)."""

    high: Tensor
    low: Tensor
    steps: Tensor
    zero_points: Tensor
    least: Tensor
    most: Tensor


def search_both_ends(data: DataSummary, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    """Return the candidate range with the smallest squared quantization error.

    With max_init and min_init of clip_search.search_clip, and r = arange(start, end, step):
        asymmetric: hi = max_init * r_i, lo = min_init * r_j for every pair (i, j)
        symmetric:  hi = max_init * r_i, lo = min_init * r_i
        fixed_min:  lo = 0
    s and zero_point are ulq.ulq_qparams of (hi, lo). Result: clip.max = (qmax - zero_point) * s and
    clip.min = (qmin - zero_point) * s (0 with fixed_min) of the best candidate, the first of equal
    ones by (i, j). Errors are computed with ulq_qparams of that clip.

    Args:
        data: the statistics of calibration.
        spec: the grid.
        how: candidates and percentiles.
    Returns:
        the best candidate.
    Source: docs/semantics.md, 4.
    """
    high, low = percentile_ends(data, how)
    if spec.fixed_min:
        low = torch.zeros_like(low)
    ratios = candidate_ratios(how, high.device)
    uppers, lowers = _fractions(high, ratios), _fractions(low, ratios)
    whole = torch.ones((), dtype=torch.bool, device=high.device)
    if spec.symmetric:
        found = _measure(high * ratios, low * ratios, data, spec)
    elif len(uppers) * len(lowers) * _lookups(data, spec) <= _AFFORDABLE:
        found = _measure(*_pairs(uppers, lowers), data, spec)
    else:
        found = _measure_in_turn(uppers, lowers, data, spec)
        whole = (high == 0) | (low == 0)
    return _winner(found, whole & tails_reach(data, how))


def _fractions(end: Tensor, ratios: Tensor) -> Tensor:
    """Return an end's candidates: one if it is 0, where its value may be read."""
    return end.reshape(1) if reads_values(end) and end.item() == 0.0 else end * ratios


def _lookups(data: DataSummary, spec: ActivationSpec) -> int:
    """Return the number of look-ups that one candidate needs."""
    return min(spec.steps, len(data.ordered)) if isinstance(data, SortedValues) else spec.steps


def _pairs(uppers: Tensor, lowers: Tensor) -> tuple[Tensor, Tensor]:
    return uppers.repeat_interleave(len(lowers)), lowers.repeat(len(uppers))


def _measure_in_turn(
    uppers: Tensor, lowers: Tensor, data: DataSummary, spec: ActivationSpec
) -> _Measured:
    """Compare all upper ends with the middle lower end, then all lower ends with the best upper."""
    first = _measure(*_pairs(uppers, lowers[len(lowers) // 2].reshape(1)), data, spec)
    best = uppers[_least(first)].reshape(1)
    second = _measure(*_pairs(best, lowers), data, spec)
    return _Measured(*(torch.cat(both) for both in zip(first, second, strict=True)))


def _measure(high: Tensor, low: Tensor, data: DataSummary, spec: ActivationSpec) -> _Measured:
    """Replace ranges by those that their grids span, and bound the errors."""
    step, zero_point = range_scale(high, low, spec)
    high, low = (spec.qmax - zero_point) * step, (spec.qmin - zero_point) * step
    if spec.fixed_min:
        low = torch.zeros_like(low)
    # Again, as quantization will: (qmax * step) / qmax may differ from step by a rounding.
    steps, zero_points = range_scale(high, low, spec)
    if isinstance(data, SortedValues) and len(data.ordered) <= _FEW * spec.steps:
        least = most = _squared_errors(data.ordered, steps, zero_points, spec)
    else:
        least, most = error_bounds(data, steps, zero_points, spec)
    return _Measured(high, low, steps, zero_points, least, most)


def _squared_errors(
    values: Tensor, steps: Tensor, zero_points: Tensor, spec: ActivationSpec
) -> Tensor:
    errors = []
    grids = torch.stack([steps, zero_points], 1).to(torch.float64)
    for group in grids.split(max(1, _VALUES // len(values))):
        step, zero_point = group.unsqueeze(2).unbind(1)
        codes = torch.round(values / step)
        codes = torch.clamp(codes, spec.qmin - zero_point, spec.qmax - zero_point)
        errors.append((codes * step - values).square().sum(1))
    return torch.cat(errors)


def _least(found: _Measured) -> Tensor:
    return torch.argmin((found.least + found.most) / 2)


def _winner(found: _Measured, certifiable: Tensor) -> ClipSearch:
    best = _least(found)
    step, zero_point = found.steps[best], found.zero_points[best]
    same = (found.steps == step) & (found.zero_points == zero_point)
    others = torch.where(same, torch.inf, found.least)
    certified = certifiable & (found.most[best] <= others.amin())
    return ClipSearch(Clip(found.high[best], found.low[best]), step, certified)
