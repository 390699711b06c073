"""Laws of the clip search: its winner is that of one pass over the data for each candidate."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from property_tests.strategies.calibration import samples, search_specs
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.grids import activation_specs
from property_tests.strategies.tensors import permutations, powers_of_two
from qatfunc import ActivationSpec, ClipSearch, SearchSpec
from qatfunc.calibration.clip_search import search_clip
from qatfunc.calibration.summaries import summarize_values
from tests.support.bits import same_bits

NARROW = activation_specs(bits=(8, 2, 4))
WIDE = activation_specs(bits=(16,))
ROUNDING = 1e-12
"""Of the mean square of data and range: what float64 leaves of sums that cancel."""


def search(values: Tensor, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    return search_clip(summarize_values(values), spec, how)


class BruteForce(NamedTuple):
    steps: NDArray[np.float32]
    errors: NDArray[np.float64]
    clip_max: NDArray[np.float32]
    clip_min: NDArray[np.float32]
    rounding: float


def brute_force(values: Tensor, spec: ActivationSpec, how: SearchSpec) -> BruteForce:
    """Quantize the data to every candidate's grid in float64 and measure the mean square error."""
    ordered = np.sort(values.numpy())
    ranks = (_rank(len(ordered), share) for share in (how.max_percentile, how.min_percentile))
    zero = np.float32(0)
    high = max(ordered[-next(ranks)], zero)
    low = min(ordered[next(ranks) - 1], zero)
    ratios = torch.arange(how.start, how.end, how.step, dtype=torch.float32).numpy()
    if how.symmetric:
        reach, divisor = max(high, -low), -spec.qmin if high < -low else spec.qmax
        steps, zero_points = reach * ratios / np.float32(divisor), np.zeros_like(ratios)
    else:
        steps, zero_points = (high * ratios - low) / np.float32(spec.steps), ratios
    steps = np.where(steps < 2.0**-23, np.float32(1), steps)
    if not how.symmetric:
        zero_points = spec.qmin - np.rint(low / steps)
    ends = [(end - zero_points) * steps for end in (spec.qmax, spec.qmin)]
    x, s, z = ordered.astype(np.float64), steps[:, None].astype(np.float64), zero_points[:, None]
    codes = np.clip(np.rint(x / s), spec.qmin - z, spec.qmax - z)
    errors = np.mean((codes * s - x) ** 2, axis=1)
    return BruteForce(steps, errors, *ends, ROUNDING * (np.mean(x**2) + ends[0].max() ** 2))


def _rank(count: int, share: float) -> int:
    return 1 if 1 - share < 2.0**-23 else max(1, count - int(np.floor(count * share)))


def assert_the_winner(found: ClipSearch, brute: BruteForce) -> None:
    winner = int(np.flatnonzero(brute.steps == found.scale.item())[0])
    assert found.clip.max.item() == brute.clip_max[winner]
    assert found.clip.min.item() == brute.clip_min[winner]
    least = brute.errors.min()
    assert brute.errors[winner] - least <= 1e-9 * least + brute.rounding


@share_of_examples(0.5)
@given(samples(), NARROW, search_specs(step=0.01))
def test_the_winner_is_that_of_brute_force(values: Tensor, spec: ActivationSpec, how: SearchSpec):
    """No candidate's mean square error is below the winner's by more than rounding."""
    assert_the_winner(search(values, spec, how), brute_force(values, spec, how))


@share_of_examples(0.05)
@given(samples(), WIDE, search_specs())
def test_the_16_bit_winner_is_that_of_brute_force(
    values: Tensor, spec: ActivationSpec, how: SearchSpec
):
    """The same for grids of 65,536 steps."""
    assert_the_winner(search(values, spec, how), brute_force(values, spec, how))


@share_of_examples(0.25)
@given(samples(), NARROW, search_specs(step=0.01))
def test_without_ties_the_winner_is_certified(
    values: Tensor, spec: ActivationSpec, how: SearchSpec
):
    """Over exact values a winner that leads by more than rounding is certain."""
    brute = brute_force(values, spec, how)
    first, second = np.sort(brute.errors)[:2]
    if second - first > 1e-9 * second + 2 * brute.rounding:
        found = search(values, spec, how)
        assert found.certified
        assert found.scale.item() == brute.steps[brute.errors.argmin()]


@share_of_examples(0.25)
@given(samples(), NARROW, search_specs(), st.data())
def test_the_order_of_values_does_not_matter(
    values: Tensor, spec: ActivationSpec, how: SearchSpec, data: st.DataObject
):
    """Permuting the data leaves the result."""
    order = data.draw(permutations(count=len(values)))
    found, permuted = search(values, spec, how), search(values[order], spec, how)
    assert torch.equal(torch.stack(permuted.clip), torch.stack(found.clip))


@share_of_examples(0.25)
@given(samples(), NARROW, search_specs(), powers_of_two(low=0, high=10))
def test_powers_of_two_commute(
    values: Tensor, spec: ActivationSpec, how: SearchSpec, factor: float
):
    """Scaling the data by a power of two scales the range, where the step was not replaced."""
    found, scaled = search(values, spec, how), search(values * factor, spec, how)
    if found.scale != 1.0 and scaled.scale != 1.0:
        assert torch.equal(torch.stack(scaled.clip), torch.stack(found.clip) * factor)


@share_of_examples(0.25)
@given(samples(), NARROW, search_specs())
def test_the_range_is_valid(values: Tensor, spec: ActivationSpec, how: SearchSpec):
    """The range spans the whole grid and holds zero."""
    found = search(values, spec, how)
    assert found.scale > 0
    assert found.clip.max >= 0 >= found.clip.min
    steps = (found.clip.max - found.clip.min).double() / found.scale.double()
    assert torch.round(steps) == spec.steps


@share_of_examples(0.25)
@given(samples(), NARROW, search_specs())
def test_values_are_unchanged(values: Tensor, spec: ActivationSpec, how: SearchSpec):
    """Nothing writes to the data or its summary."""
    before, summary = values.clone(), summarize_values(values)
    fields = [field.clone() for field in summary]
    search_clip(summary, spec, how)
    assert same_bits(values, before)
    assert all(torch.equal(a, b) for a, b in zip(summary, fields, strict=True))
