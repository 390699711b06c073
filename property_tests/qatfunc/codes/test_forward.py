"""Forward of every operator on codes: the bits of its formula in NumPy integers."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.codes import (
    FUNCTION,
    LIMITS,
    SPEC,
    Operands,
    arguments,
    dequantized,
    output_on,
    products,
    qparams_of,
    results,
    some_integers,
    sums,
    value_grids,
)
from property_tests.strategies.examples import share_of_examples
from qatfunc import QParams, codes
from qatfunc.codes import Activation, Factors, Limits, ValueGrid, Window
from tests.support.bits import has_negative_zero
from tests.support.functions import codes_reference
from tests.support.functions.codes_reference import Grid


def grid_of(y: ValueGrid) -> Grid:
    return Grid(np.float32(y.scale), y.low, y.high)


def every_pair(case: Operands) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (torch.from_numpy(grid.integers.astype(np.float32)) for grid in case[:2])
    return a[:, None], b[None]


def both(case: Operands) -> tuple[QParams, QParams]:
    return qparams_of(case.a), qparams_of(case.b)


def assert_bits(y: torch.Tensor, want: np.ndarray) -> None:
    assert not has_negative_zero(y)
    assert y.numpy().dtype == want.dtype
    assert np.array_equal(y.numpy(), want)


@share_of_examples(1 / 2)
@given(sums(), LIMITS, st.booleans())
def test_add(case: Operands, limits: tuple[float, float], fit: bool):
    """All 65,536 sums, with natural and with fitted factors."""
    n_a, n_b = every_pair(case)
    x = dequantized(n_a, case.a), dequantized(n_b, case.b)
    natural = tuple(np.float32(one.scale) / np.float32(case.y.scale) for one in case[:2])
    factors = codes.fit_sum(*case) if fit else natural
    given_ = Factors(*map(torch.tensor, factors)) if fit else None
    y = codes.add(
        *x, both(case), output=output_on(case.y), spec=SPEC, factors=given_, limits=Limits(*limits)
    )
    integers = n_a.numpy().astype(np.int64), n_b.numpy().astype(np.int64)
    assert_bits(y, codes_reference.add(*integers, factors, grid_of(case.y), limits))


@share_of_examples(1 / 2)
@given(products(), LIMITS, st.booleans())
def test_mul(case: Operands, limits: tuple[float, float], fit: bool):
    """All 65,536 products, with the natural and with a fitted multiplier."""
    n_a, n_b = every_pair(case)
    x = dequantized(n_a, case.a), dequantized(n_b, case.b)
    a, b, y = (np.float32(grid.scale) for grid in case)
    multiplier = codes.fit_multiplier(*case).multiplier if fit else a * b / y
    got = codes.mul(
        *x,
        both(case),
        output=output_on(case.y),
        spec=SPEC,
        multiplier=torch.tensor(multiplier) if fit else None,
        limits=Limits(*limits),
    )
    integers = n_a.numpy().astype(np.int64), n_b.numpy().astype(np.int64)
    assert_bits(got, codes_reference.mul(*integers, multiplier, grid_of(case.y), limits))


@given(st.data(), FUNCTION, arguments())
def test_unary(data: st.DataObject, function: Activation, x: ValueGrid):
    """All 256 codes: the table, which is the formula in float64."""
    y = data.draw(results(function, x))
    fitted = codes.fit_table(function, x, y)
    scaled = ValueGrid(scale=float(fitted.scale), zero_point=y.zero_point)
    n = torch.from_numpy(x.integers.astype(np.float32)).reshape(2, 4, 32)
    got = codes.unary(
        dequantized(n, x), function, qparams_of(x), output=output_on(scaled), spec=SPEC
    )
    want = (fitted.codes.astype(np.int64) - y.zero_point).astype(np.float32) * fitted.scale
    assert_bits(got, want.reshape(2, 4, 32))


@given(st.data(), value_grids(), value_grids())
def test_prelu(data: st.DataObject, x: ValueGrid, y: ValueGrid):
    """Per channel, and with one slope for all."""
    n = data.draw(some_integers(x, (2, 3, 5)))
    slopes = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3))
    weight = torch.tensor(slopes[: data.draw(st.sampled_from([1, 3]))])
    got = codes.prelu(dequantized(n, x), weight, qparams_of(x), output=output_on(y), spec=SPEC)
    reference = (n.numpy().astype(np.int64), np.float32(x.scale), weight.numpy(), grid_of(y))
    assert_bits(got, codes_reference.prelu(*reference))


@given(st.data(), value_grids(), value_grids())
def test_mean(data: st.DataObject, x: ValueGrid, y: ValueGrid):
    """Over any axes."""
    y = ValueGrid(scale=float(np.float32(y.scale * x.scale)), zero_point=y.zero_point)
    dim = data.draw(st.sampled_from([(1,), (2, 3), (-1,), (0, 1, 2, 3)]))
    n = data.draw(some_integers(x, (2, 3, 4, 5)))
    got = codes.mean(dequantized(n, x), qparams_of(x), output=output_on(y), spec=SPEC, dim=dim)
    count = np.prod([n.shape[axis] for axis in dim])
    rescale = np.float32(x.scale) / np.float32(count)
    want = codes_reference.average(n.numpy().astype(np.int64), dim, rescale, grid_of(y))
    assert_bits(got, np.asarray(want))


@given(st.data(), value_grids(), value_grids(), st.integers(1, 3))
def test_average_pool(data: st.DataObject, x: ValueGrid, y: ValueGrid, axes: int):
    """In one to three dimensions, with strides and padding."""
    y = ValueGrid(scale=float(np.float32(y.scale * x.scale)), zero_point=y.zero_point)
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    stride = data.draw(st.tuples(*[st.integers(1, 3)] * axes))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    n = data.draw(some_integers(x, (2, 2, 5, 4, 3)[: 2 + axes]))
    window = Window(kernel, stride, padding)
    got = codes.average_pool(
        dequantized(n, x), qparams_of(x), output=output_on(y), spec=SPEC, window=window
    )
    rescale = np.float32(x.scale) / np.float32(np.prod(kernel))
    integers = n.numpy().astype(np.int64)
    want = codes_reference.pool(integers, (kernel, stride, padding), rescale, grid_of(y))
    assert_bits(got, want)


@given(st.data(), value_grids(), st.integers(1, 3), st.sampled_from([1, 2]))
def test_an_adaptive_pool_is_a_pool_of_equal_windows(
    data: st.DataObject, x: ValueGrid, axes: int, parts: int
):
    """Global for an output of size 1."""
    n = data.draw(some_integers(x, (2, 3, 6, 4, 2)[: 2 + axes]))
    kernel = tuple(size // parts for size in n.shape[2:])
    value = dequantized(n, x), qparams_of(x)
    result = {"output": output_on(x), "spec": SPEC}
    got = codes.adaptive_average_pool(*value, **result, output_size=(parts,) * axes)
    window = Window(kernel, kernel, (0,) * axes)
    assert torch.equal(got, codes.average_pool(*value, **result, window=window))


@given(st.data(), value_grids(), value_grids())
def test_values_of_the_same_grid_pass_through(data: st.DataObject, x: ValueGrid, y: ValueGrid):
    """Requantize is the identity on its own results, also where a reader rounds them again."""
    n = data.draw(some_integers(x, (4, 5)))
    once = codes.requantize(dequantized(n, x), output=output_on(y), spec=SPEC)
    assert torch.equal(codes.requantize(once, output=output_on(y), spec=SPEC), once)
    joined = codes.concat([dequantized(n, x), once], dim=0, output=output_on(y), spec=SPEC)
    assert torch.equal(joined, torch.cat([once, once]))
