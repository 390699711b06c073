"""What is proven of sums, products and functions of codes, against trying all in every order."""

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from property_tests.strategies.codes import (
    FUNCTION,
    Operands,
    arguments,
    products,
    results,
    sums,
    value_grids,
)
from property_tests.strategies.examples import share_of_examples
from qatfunc.codes import Activation, fit_multiplier, fit_sum, fit_table, prelu_table
from tests.support.functions import codes_reference
from tests.support.requantization import add_kernels, mul_kernels


@share_of_examples(1 / 2)
@given(sums())
def test_fitted_sums_are_equal_for_every_pair_in_every_order(case: Operands):
    """Factors exist for the usual ratios; with them no kernel differs in any of 65,536 pairs."""
    factors = fit_sum(*case)
    assert factors is not None
    expected = add_kernels.natural(factors, *case.zeros)
    for name, kernel in add_kernels.KERNELS.items():
        assert np.array_equal(kernel(factors, *case.zeros), expected), name


@share_of_examples(1 / 2)
@given(products())
def test_fitted_products_are_equal_for_every_pair_in_every_order(case: Operands):
    """A multiplier exists; with it no order differs in any of 65,536 pairs."""
    fitted = fit_multiplier(*case)
    assert fitted is not None
    event(f"adjusted by {abs(fitted.ulps) // 128 * 128} ulps and more")
    expected = mul_kernels.natural(fitted.multiplier, *case.zeros)
    for name, kernel in mul_kernels.KERNELS.items():
        assert np.array_equal(kernel(fitted.multiplier, *case.zeros), expected), name


@given(products())
def test_no_product_is_near_a_tie(case: Operands):
    """Each is more than 2^-15 away from a tie between two codes; int64 and float64 are exact."""
    fitted = fit_multiplier(*case)
    assert fitted is not None
    exact = np.multiply.outer(case.a.integers, case.b.integers) * float(fitted.multiplier)
    inside = exact[(exact > case.y.low) & (exact < case.y.high)]
    assert (np.abs(inside % 1 - 0.5) > 2.0**-15).all()


@given(products())
def test_a_multiplier_is_the_natural_one_by_its_ulps(case: Operands):
    """It differs from float32(float32(scale_a * scale_b) / scale_y) by the ulps that it says."""
    fitted = fit_multiplier(*case)
    assert fitted is not None
    a, b, y = (np.float32(grid.scale) for grid in case)
    natural = int((a * b / y).view(np.int32))
    assert int(fitted.multiplier.view(np.int32)) - natural == fitted.ulps


@given(st.data(), FUNCTION, arguments())
def test_a_table_is_the_function_in_float64(data: st.DataObject, function: Activation, x):
    """Proven or not, codes are those of the formula; a proven one has no code near a tie."""
    y = data.draw(results(function, x))
    fitted = fit_table(function, x, y)
    event(f"proven: {fitted.proven}, adjusted: {fitted.ulps != 0}")
    arguments_of = x.integers, np.float32(x.scale)
    grid = codes_reference.Grid(fitted.scale, y.low, y.high)
    named = function.name, function.parameter
    if fitted.proven:
        values = codes_reference.unary(*named, *arguments_of, grid) / fitted.scale
        assert np.array_equal(fitted.codes, np.rint(values) + y.zero_point)
    else:
        assert (fitted.scale, fitted.ulps) == (np.float32(y.scale), 0)


@given(st.data(), FUNCTION, arguments())
def test_an_error_of_six_ulps_changes_no_code(data: st.DataObject, function: Activation, x):
    """f(x) off by 6 ulps of itself, either way, and a quotient in float32 give the same codes."""
    y = data.draw(results(function, x))
    fitted = fit_table(function, x, y)
    if not fitted.proven:
        return
    values = (x.integers.astype(np.float32) * np.float32(x.scale)).astype(np.float64)
    formula = codes_reference.FUNCTIONS[function.name]
    exact = np.array([formula(value, function.parameter) for value in values.tolist()])
    for error in (-6, 6):
        inexact = (exact * (1 + error * 2.0**-23)).astype(np.float32)
        codes = np.rint(inexact / fitted.scale) + y.zero_point
        assert np.array_equal(np.clip(codes, -128, 127), fitted.codes)


@given(value_grids(), value_grids(), st.lists(st.floats(-2.0, 2.0, width=32), min_size=1))
def test_a_prelu_table_is_the_formula(x, y, slopes: list[float]):
    """One product and one quotient, each rounded to float32."""
    weight = np.array(slopes, np.float32)
    grid = codes_reference.Grid(np.float32(y.scale), y.low, y.high)
    n = np.broadcast_to(x.integers, (1, len(weight), 256))
    want = codes_reference.prelu(n, np.float32(x.scale), weight, grid)[0] / np.float32(y.scale)
    assert np.array_equal(prelu_table(weight, x, y), np.rint(want) + y.zero_point)
