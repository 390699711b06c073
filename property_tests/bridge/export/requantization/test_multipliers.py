"""What snapping finds, against all accumulators and all multipliers nearby."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.export.requantization.multipliers import fit_multipliers
from bridge.export.requantization.step_functions import EXACT_BOUND, prove
from property_tests.strategies.step_functions import step_functions
from tests.support.requantization.steps import every

BOUNDS = st.sampled_from((0, 1, 7, 300, 5000, 5000, 20_000, 1 << 17))
SHIFTS = ("none", "none", "any", "multiple")


@given(st.data())
def test_proven_channels_are_equal_for_every_accumulator(data):
    bound = data.draw(BOUNDS)
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    found = fit_multipliers(steps, bound, max_ulps=8)
    acc = every(bound)
    equal = (found.steps.codes(acc) == found.integer.codes(acc)).all(axis=1)
    assert equal[found.proven].all()


@given(st.data())
def test_rescales_move_by_the_ulps_reported(data):
    bound = data.draw(st.integers(0, EXACT_BOUND))
    steps = data.draw(step_functions(bound=max(bound, 8), shifts=SHIFTS))
    found = fit_multipliers(steps, bound, max_ulps=5)
    before, after = (np.abs(s.rescale).view(np.int32).astype(int) for s in (steps, found.steps))
    np.testing.assert_array_equal(after - before, found.ulps)
    np.testing.assert_array_equal(np.signbit(steps.rescale), np.signbit(found.steps.rescale))
    assert np.abs(found.ulps).max() <= 5
    assert not found.ulps[~found.proven].any()
    assert (np.abs(found.integer.offset) + bound < 1 << 31).all()
    assert prove(found.steps, found.integer, bound)[found.proven].all()


@given(st.data())
def test_channels_do_not_depend_on_each_other(data):
    bound = data.draw(st.sampled_from((5000, 1 << 20)))
    steps = data.draw(step_functions(bound=bound, shifts=SHIFTS))
    together = fit_multipliers(steps, bound, max_ulps=4)
    for channel in range(len(steps.rescale)):
        alone = fit_multipliers(steps.take(np.array([channel])), bound, max_ulps=4)
        assert alone.proven[0] == together.proven[channel]
        assert alone.ulps[0] == together.ulps[channel]
        assert alone.integer.multiplier[0] == together.integer.multiplier[channel]
        assert alone.integer.offset[0] == together.integer.offset[channel]


@given(st.data())
def test_where_no_multiplier_is_found_none_nearby_fits(data):
    bound = data.draw(st.sampled_from((300, 5000, 1 << 20)))
    steps = data.draw(step_functions(bound=bound))
    found = fit_multipliers(steps, bound, max_ulps=0)
    left = np.flatnonzero(~found.proven)
    steps, start = steps.take(left), found.integer.multiplier[left]
    for ulps in range(-12, 13):
        multiplier = (start.view(np.int32) + np.int32(ulps)).view(np.float32)
        usable = np.isfinite(multiplier)
        integer = replace(
            found.integer,
            multiplier=np.where(usable, multiplier, start),
            offset=np.zeros(len(left), np.int64),
        )
        assert not prove(steps, integer, bound).any()
