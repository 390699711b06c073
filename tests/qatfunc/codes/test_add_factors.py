"""Factors of sums: every pair of codes, on every kind of kernel."""

import numpy as np
import pytest

from qatfunc.codes.add_factors import fit_factors
from tests.support.requantization.add_kernels import KERNELS, natural

CASES = {
    "a residual sum": ((0.7312, 0.4021), (128, 0), 0),
    "of equal scales": ((0.5, 0.5), (0, 0), 0),
    "a scale as it is": ((1.0, 1.0), (128, 128), 127),
    "an odd zero point": ((0.61, 0.34), (3, 250), 77),
    "beyond what the codes hold": ((3.1, 2.7), (10, 200), 128),
    "a small operand": ((1.0, 0.004), (128, 128), 128),
}


@pytest.mark.parametrize("name", CASES)
def test_all_kernels_agree_on_every_pair(name):
    factors, zeros, zero_y = CASES[name]
    fitted = fit_factors(factors, zeros, zero_y)
    expected = natural(fitted, zeros, zero_y)
    for kernel, function in KERNELS.items():
        assert np.array_equal(function(fitted, zeros, zero_y), expected), kernel


@pytest.mark.parametrize("name", CASES)
def test_sums_move_by_less_than_a_quarter_of_a_code(name):
    factors, zeros, zero_y = CASES[name]
    fitted = fit_factors(factors, zeros, zero_y)
    assert max(abs(one - other) * 255 for one, other in zip(factors, fitted, strict=True)) <= 0.3
    before, after = (natural(f, zeros, zero_y).astype(int) for f in (factors, fitted))
    assert np.abs(before - after).max() <= 1


def test_kernels_do_differ_where_factors_are_as_they_come():
    """Else nothing would be tested."""
    factors, zeros = (np.float32(0.5), np.float32(0.25)), (128, 0)
    found = {name: kernel(factors, zeros, 77).tobytes() for name, kernel in KERNELS.items()}
    assert len(set(found.values())) > 1


def test_factors_that_need_no_move_are_kept():
    assert fit_factors((1.0, 2.0), (0, 0), 0) == (1.0, 2.0), "whole numbers have no ties"


@pytest.mark.parametrize("factors", [(200.0, 0.5), (1e6, 1.0), (60.0, 60.0)])
def test_no_factors_where_float32_would_round_coarsely(factors):
    assert fit_factors(factors, (0, 0), 0) is None
