"""Thresholds and proofs against all accumulators there are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.export.requantization.multipliers import fit_multipliers
from bridge.export.requantization.step_functions import (
    EXACT_BOUND,
    Grid,
    corners,
    prove,
    thresholds,
)
from property_tests.strategies.step_functions import SLOPES, step_functions
from tests.support.requantization.steps import every, perturbed, random_steps

BOUNDS = st.sampled_from((0, 1, 7, 300, 5000, 5000, 20_000, 1 << 17))
SHIFTS = ("none", "any", "multiple")


@given(st.data())
def test_thresholds_are_the_first_accumulators_to_reach_a_code(data):
    bound = data.draw(BOUNDS)
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    got = thresholds(steps, bound)
    acc, grid = every(bound), steps.grid
    for channel, codes in enumerate(steps.codes(acc)):
        rising = codes[::-1] if steps.rescale[channel] < 0 else codes
        want = np.searchsorted(rising, np.arange(grid.qmin + 1, grid.qmax + 1)) - bound
        np.testing.assert_array_equal(got[channel], want)


@given(st.data())
def test_thresholds_hold_on_both_sides_at_any_bound(data):
    bound = data.draw(st.integers(0, EXACT_BOUND))
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    table = thresholds(steps, bound)
    grid, sign = steps.grid, np.where(steps.rescale < 0, -1, 1)[:, None]
    codes = np.arange(grid.qmin + 1, grid.qmax + 1)
    assert (np.diff(table, axis=1) >= 0).all()
    assert ((steps.codes(table * sign) >= codes) | (table == bound + 1)).all()
    assert ((steps.codes((table - 1) * sign) < codes) | (table == -bound)).all()


@given(st.data())
def test_between_corners_codes_are_constant(data):
    bound = data.draw(st.sampled_from((1, 300, 5000)))
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    codes = steps.codes(every(bound))
    for channel, points in enumerate(corners(steps, bound)):
        last = np.flatnonzero(np.diff(codes[channel])) - bound
        assert np.isin([*last, *(last + 1), -bound, bound], points).all()
        assert np.abs(points).max() <= bound


@given(st.data())
def test_proofs_are_right_both_ways(data):
    bound = data.draw(BOUNDS)
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    found = fit_multipliers(steps, bound, max_ulps=1)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    acc = every(bound)
    for integer in (found.integer, perturbed(found.integer, rng)):
        equal = (steps.codes(acc) == integer.codes(acc)).all(axis=1)
        np.testing.assert_array_equal(prove(steps, integer, bound), equal)


def test_proofs_of_a_thousand_channels():
    """Count that equal pairs, unequal ones and those a single accumulator apart all occur."""
    rng = np.random.default_rng(0)
    grids = Grid(zero_point=0, qmin=0, qmax=255), Grid(zero_point=7, qmin=-128, qmax=127)
    differing = []
    for index in range(100):
        bound = int(rng.choice([2000, 10_000, 40_000]))
        steps = random_steps(
            rng,
            grids[index % 2],
            channels=10,
            bound=bound,
            slope=SLOPES[index % 3],
            shift=SHIFTS[index % 7 % 3],
        )
        integer = perturbed(fit_multipliers(steps, bound, max_ulps=0).integer, rng)
        acc = every(bound)
        count = (steps.codes(acc) != integer.codes(acc)).sum(axis=1)
        np.testing.assert_array_equal(prove(steps, integer, bound), count == 0)
        differing.extend(count.tolist())
    assert len(differing) == 1000
    assert differing.count(0) > 200
    assert differing.count(1) > 20
    assert sum(count > 1 for count in differing) > 200
