"""Adjusted multipliers and scales by hand, and errors."""

import numpy as np
import pytest

from qatfunc import IntSpec
from qatfunc.codes import Activation, ValueGrid, fit_multiplier, fit_sum, fit_table, prelu_table
from tests.support.requantization.mul_kernels import KERNELS, natural

ONE = ValueGrid(scale=1.0, zero_point=0)
WIDE = ValueGrid(scale=1.0, zero_point=0, spec=IntSpec(bits=16))


def test_products_without_ties_keep_their_multiplier():
    assert fit_multiplier(ONE, ONE, ONE) == (1.0, 0)


def test_a_tie_at_one_half_needs_more_than_512_ulps():
    half = ValueGrid(scale=0.5, zero_point=3)
    fitted = fit_multiplier(ONE, half, ValueGrid(scale=1.0, zero_point=5))
    assert fitted is not None
    assert 512 < abs(fitted.ulps) < 1024
    assert fit_multiplier(ONE, half, ONE, max_ulps=512) is None


def test_kernels_do_differ_for_multipliers_as_they_come():
    """Else nothing would be tested."""
    found = {name: kernel(np.float32(0.125), (131, 121), 133) for name, kernel in KERNELS.items()}
    wrong = {name for name, got in found.items() if not np.array_equal(got, found["training"])}
    assert wrong == {"QLinearMul", "fused", "pairs, zero point first", "away from zero", "int8"}


def test_a_case_that_random_scales_found():
    """QLinearMul of 110 and 80 with zero point 6 gave 134 for 133, by a rounding of the sum."""
    m = np.float32(0.014488636)
    assert np.rint(np.float32(110 * 80) * m) + 6 == 133
    assert np.rint(np.float32(np.float32(110 * 80) * m) + np.float32(6)) == 134
    y = ValueGrid(scale=1.0, zero_point=6 - 128)
    a = ValueGrid(scale=float(m), zero_point=-128)
    fitted = fit_multiplier(a, ValueGrid(scale=1.0, zero_point=-128), y)
    assert fitted is not None
    assert fitted.ulps
    expected = natural(fitted.multiplier, (0, 0), 6)
    assert all(np.array_equal(k(fitted.multiplier, (0, 0), 6), expected) for k in KERNELS.values())


def test_an_infinite_multiplier_is_none():
    big = ValueGrid(scale=2.0**100, zero_point=0)
    assert fit_multiplier(big, big, ONE) is None


def test_a_multiplier_of_zero_has_no_ties():
    tiny = ValueGrid(scale=2.0**-100, zero_point=0)
    assert fit_multiplier(tiny, tiny, ONE) == (0.0, 0)


@pytest.mark.parametrize("fit", [fit_multiplier, fit_sum])
def test_wide_values_are_not_tried(fit):
    with pytest.raises(ValueError, match="at most 8 bits are proven, got 16"):
        fit(ONE, WIDE, ONE)


def test_factors_of_a_sum_do_not_depend_on_the_sign_of_codes():
    half = ValueGrid(scale=0.5, zero_point=3)
    factors = fit_sum(half, ONE, ValueGrid(scale=2.0, zero_point=-3))
    assert factors is not None
    assert np.abs(np.array(factors) - [0.25, 0.5]).max() < 0.001


def test_a_table_without_ties():
    found = fit_table(Activation("relu"), ONE, ValueGrid(scale=1.0, zero_point=-128))
    assert (found.scale, found.ulps, found.proven) == (1.0, 0, True)
    assert found.codes.tolist() == [-128] * 129 + list(range(-127, 0))


def test_a_table_whose_ties_need_another_scale():
    y = ValueGrid(scale=2.0, zero_point=-128)
    found = fit_table(Activation("relu"), ONE, y)
    assert found.proven
    assert 8 <= abs(found.ulps) <= 17
    assert found.scale == np.float32(2.0).view(np.int32).__add__(found.ulps).view(np.float32)
    natural_one = fit_table(Activation("relu"), ONE, y, max_ulps=7)
    assert (natural_one.scale, natural_one.ulps, natural_one.proven) == (2.0, 0, False)
    assert natural_one.codes[130:133].tolist() == [-127, -126, -126]  # 2, 3 and 4 over 2


@pytest.mark.parametrize("fit", [fit_multiplier, fit_table])
def test_a_negative_bound_is_an_error(fit):
    arguments = (ONE, ONE, ONE) if fit is fit_multiplier else (Activation("silu"), ONE, ONE)
    with pytest.raises(ValueError, match="max_ulps must not be negative, got -1"):
        fit(*arguments, max_ulps=-1)


def test_a_prelu_table_by_hand():
    found = prelu_table(np.array([0.5, -1.0], np.float32), ONE, ONE)
    assert found.shape == (2, 256)
    assert found[:, [0, 125, 126, 255]].tolist() == [[-64, -2, -1, 127], [127, 3, 2, 127]]
