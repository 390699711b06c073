"""Factors of sums, over drawn scales and zero points."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.examples import share_of_examples
from qatfunc.codes.add_factors import fit_factors
from tests.support.requantization.add_kernels import KERNELS, natural

_RATIOS = st.floats(0.004, 8.0)
_CODES = st.integers(0, 255)


@share_of_examples(1 / 4)
@given(st.tuples(_RATIOS, _RATIOS), st.tuples(_CODES, _CODES), _CODES)
def test_every_kernel_has_the_same_code_for_every_pair(
    factors: tuple[float, float], zeros: tuple[int, int], zero_y: int
) -> None:
    """Fused or not, in fixed point or float, ties to even or away: 65,536 equal codes."""
    fitted = fit_factors(factors, zeros, zero_y)
    if fitted is None:
        return
    expected = natural(fitted, zeros, zero_y)
    for name, kernel in KERNELS.items():
        assert np.array_equal(kernel(fitted, zeros, zero_y), expected), name


@given(st.tuples(st.floats(0.05, 1.5), st.floats(0.05, 1.5)), st.tuples(_CODES, _CODES), _CODES)
def test_sums_of_usual_scales_have_near_factors(
    factors: tuple[float, float], zeros: tuple[int, int], zero_y: int
) -> None:
    """Factors exist, and move a sum by less than half a code."""
    fitted = fit_factors(factors, zeros, zero_y)
    assert fitted is not None
    error = sum(abs(one - float(other)) for one, other in zip(factors, fitted, strict=True)) * 255
    assert error < 0.5
