"""Integer step functions found for float ones: by hand."""

import time

import numpy as np
import pytest

from bridge.export.requantization.multipliers import fit_multipliers
from bridge.export.requantization.step_functions import EXACT_BOUND, FloatSteps, Grid, prove

UINT8 = Grid(zero_point=0, qmin=0, qmax=255)


def steps(*rescale, scale=1.0, grid=UINT8, **options):
    return FloatSteps(rescale=np.array(rescale, np.float32), scale=scale, grid=grid, **options)


def test_powers_of_two_need_no_move():
    found = fit_multipliers(steps(0.25, -0.5, scale=0.125), EXACT_BOUND)
    assert found.proven.all()
    assert found.ulps.tolist() == [0, 0]
    assert found.integer.multiplier.tolist() == [2.0, -4.0]
    assert found.integer.offset.tolist() == [0, 0]


def first_that_must_move():
    """Return rescales of which one multiplier a channel is not enough."""
    rng = np.random.default_rng(0)
    rescale = (rng.uniform(0.5, 1, 200) * 255 * 0.03 / 3e5).astype(np.float32)
    return steps(*rescale, scale=0.03), 300_000


def test_moves_are_as_small_as_can_be():
    made, bound = first_that_must_move()
    found = fit_multipliers(made, bound)
    adjusted = np.flatnonzero(found.ulps)
    assert found.proven.all()
    assert 10 < len(adjusted) < 190
    before, after = (a.rescale.view(np.int32).astype(int) for a in (made, found.steps))
    np.testing.assert_array_equal(after - before, found.ulps)
    for distance in range(np.abs(found.ulps).max()):
        closer = np.flatnonzero(np.abs(found.ulps) > distance)
        assert not fit_multipliers(made.take(closer), bound, max_ulps=distance).proven.any()


def test_no_move_where_none_is_allowed():
    made, bound = first_that_must_move()
    found = fit_multipliers(made, bound, max_ulps=0)
    np.testing.assert_array_equal(found.steps.rescale, made.rescale)
    assert not found.ulps.any()
    np.testing.assert_array_equal(found.proven, fit_multipliers(made, bound).ulps == 0)


def test_what_is_not_proven_keeps_its_rescale_and_differs():
    made, bound = first_that_must_move()
    found = fit_multipliers(made, bound, max_ulps=1)
    left = ~found.proven
    assert left.any()
    np.testing.assert_array_equal(found.steps.rescale[left], made.rescale[left])
    np.testing.assert_array_equal(found.ulps[left], 0)
    assert not prove(found.steps, found.integer, bound)[left].any()


def test_a_shift_of_whole_multiples_becomes_the_offset():
    rescale, shift = np.float32([0.25, -0.25, 0.5]), np.float32([3.0, 3.0, -8.0])
    found = fit_multipliers(FloatSteps(rescale=rescale, shift=shift, scale=0.5, grid=UINT8), 10_000)
    assert found.proven.all()
    assert found.integer.offset.tolist() == [12, -12, -16]
    assert found.integer.multiplier.tolist() == [0.5, -0.5, 1.0]


def test_a_shift_between_multiples_is_left_unproven():
    # Codes rise at every accumulator 0.5 further: no offset is half an accumulator.
    found = fit_multipliers(steps(1.0, shift=np.float32([0.75]), scale=2.0), 1000)
    assert found.proven.tolist() == [True]
    found = fit_multipliers(steps(0.3, shift=np.float32([0.15])), 1000, max_ulps=0)
    assert found.proven.tolist() == [False]


@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.0, 1000.0])
def test_a_rescale_of_zero_is_a_constant(shift):
    grid = Grid(zero_point=5, qmin=-128, qmax=127)
    made = steps(0.0, grid=grid, shift=np.array([shift], np.float32))
    found = fit_multipliers(made, 1 << 20)
    assert found.proven.tolist() == [True]
    codes = found.integer.codes(np.array([-(1 << 20), 0, 1 << 20]))
    assert codes.tolist() == [[min(int(shift) + 5, 127)] * 3]


def test_a_rescale_of_zero_without_a_shift():
    found = fit_multipliers(steps(0.0, low=2.0, high=6.0), EXACT_BOUND)
    assert found.proven.tolist() == [True]
    assert found.integer.codes(np.array([-9, 9])).tolist() == [[2, 2]]


def test_numbers_at_the_ends_of_float32():
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    for rescale, scale in ((tiny, tiny), (tiny, huge), (huge, 1e-30), (tiny, 1.0)):
        made = steps(rescale, -rescale, scale=float(scale))
        found = fit_multipliers(made, 5000)
        assert found.proven.all()
        acc = np.arange(-5000, 5001)
        np.testing.assert_array_equal(found.steps.codes(acc), found.integer.codes(acc))


def test_a_product_beyond_float32_makes_a_step_no_multiplier_has():
    # Codes 0, 1 and then 255 at once, as 2 * rescale is infinite.
    made = steps(np.finfo(np.float32).max, scale=float(np.finfo(np.float32).max))
    assert fit_multipliers(made, 1).proven.tolist() == [True]
    assert fit_multipliers(made, 2).proven.tolist() == [False]


def test_the_arguments_stay_as_they_are():
    made, bound = first_that_must_move()
    before = made.rescale.copy()
    bounds = np.full(len(before), bound)
    fit_multipliers(made, bounds)
    np.testing.assert_array_equal(made.rescale, before)
    assert (bounds == bound).all()


def test_refuses():
    with pytest.raises(ValueError, match="max_ulps must not be negative, got -1"):
        fit_multipliers(steps(1.0), 5, max_ulps=-1)
    with pytest.raises(ValueError, match="bound must lie in"):
        fit_multipliers(steps(1.0), EXACT_BOUND + 1)


def test_no_channels():
    found = fit_multipliers(steps(), 5)
    assert found.proven.shape == found.ulps.shape == (0,)


def test_time_is_that_of_array_operations():
    rng = np.random.default_rng(0)
    rescale = (rng.uniform(0.1, 1, 2048) * 255 * 0.03 / 3e4).astype(np.float32)
    made = steps(*rescale, scale=0.03)
    started = time.process_time()
    found = fit_multipliers(made, 100_000)
    # 0.2 s where it was measured; a loop over channels and codes takes minutes.
    assert time.process_time() - started < 5
    assert found.proven.all()


def test_an_offset_beside_the_nearest_multiple():
    # 17.280083 / 0.7914899 = 21.83, and yet only 21 fits.
    grid = Grid(zero_point=0, qmin=-8, qmax=7)
    found = fit_multipliers(
        steps(0.7914899, grid=grid, shift=np.float32([17.280083])), 20, max_ulps=0
    )
    assert found.proven.tolist() == [True]
    assert found.integer.offset.tolist() == [21]
