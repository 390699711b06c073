"""Gradients of every operator on codes: the formulas in float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from property_tests.strategies.codes import (
    FUNCTION,
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
from qatfunc import Clip, codes
from qatfunc.codes import Activation, Output, ValueGrid, Window
from tests.support.functions import float64_gradients
from tests.support.functions.float64_derivatives import DERIVATIVES
from tests.support.functions.transforms import directions

SHAPE = (2, 3, 4, 4)


def close(a: Tensor, b: Tensor) -> None:
    """Sums of up to 96 float32 terms, relative to the largest."""
    size = max(b.abs().max().item(), 1e-30)
    torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * size)


def check(
    operator: Callable[..., Tensor], y: Tensor, leaves: list[Tensor], grid: ValueGrid, seed: int
) -> Tensor:
    """Run backward, compare the gradients of the range, return that of y in float64."""
    output = output_on(grid)
    ends = [end.clone().requires_grad_() for end in output.clip]
    got = operator(*leaves, Output(Clip(*ends), output.qparams))
    upstream = directions(got, seed)
    got.backward(upstream)
    want = float64_gradients.ulq(y, output.clip, output.qparams, upstream, bits=8)
    # A part of the sum may cancel: the bound is on its terms.
    atol = 1e-5 * upstream.abs().sum().item()
    for end, formula in zip(ends, (want.clip_max, want.clip_min), strict=True):
        torch.testing.assert_close(end.grad.double(), formula, rtol=1e-5, atol=atol)
    return want.x


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


@given(st.data(), sums(), st.integers(0, 99))
def test_add(data: st.DataObject, case: Operands, seed: int):
    """That of a sum, to both operands; summed over what is broadcast."""
    a, b = (
        leaf(dequantized(data.draw(some_integers(grid, shape)), grid))
        for grid, shape in zip(case[:2], (SHAPE, (1, 3, 1, 1)), strict=True)
    )
    qparams = qparams_of(case.a), qparams_of(case.b)
    g = check(
        lambda a, b, y: codes.add(a, b, qparams, output=y, spec=SPEC),
        (a + b).detach(),
        [a, b],
        case.y,
        seed,
    )
    close(a.grad, g)
    close(b.grad, g.sum((0, 2, 3), keepdim=True))


@given(st.data(), products(), st.integers(0, 99))
def test_mul(data: st.DataObject, case: Operands, seed: int):
    """That of a product, at the dequantized operands."""
    a, b = (
        leaf(dequantized(data.draw(some_integers(grid, shape)), grid))
        for grid, shape in zip(case[:2], (SHAPE, (2, 3, 1, 1)), strict=True)
    )
    qparams = qparams_of(case.a), qparams_of(case.b)
    g = check(
        lambda a, b, y: codes.mul(a, b, qparams, output=y, spec=SPEC),
        (a * b).detach(),
        [a, b],
        case.y,
        seed,
    )
    close(a.grad, g * b.detach().double())
    close(b.grad, (g * a.detach().double()).sum((2, 3), keepdim=True))


@given(st.data(), FUNCTION, arguments(), st.integers(0, 99))
def test_unary(data: st.DataObject, function: Activation, x: ValueGrid, seed: int):
    """G * f'(x) within the range of the result."""
    y = data.draw(results(function, x))
    values = leaf(dequantized(data.draw(some_integers(x, SHAPE)), x))
    qparams, at = qparams_of(x), function(values.detach())
    g = check(
        lambda x, y: codes.unary(x, function, qparams, output=y, spec=SPEC), at, [values], y, seed
    )
    slope = DERIVATIVES[function.name](values.detach().double(), function.parameter)
    torch.testing.assert_close(values.grad.double(), g * slope, rtol=1e-4, atol=1e-5)


@given(st.data(), value_grids(), st.integers(0, 99))
def test_prelu(data: st.DataObject, x: ValueGrid, seed: int):
    """g, times the slope where x is negative; the slope's is the sum of g * x there."""
    values = leaf(dequantized(data.draw(some_integers(x, SHAPE)), x))
    weight = leaf(torch.tensor([0.25, -1.0, 0.1]))
    slopes = weight.detach().reshape(1, 3, 1, 1)
    fixed = values.detach()
    at = torch.where(fixed < 0, fixed * slopes, fixed)
    qparams = qparams_of(x)
    g = check(
        lambda x, w, y: codes.prelu(x, w, qparams, output=y, spec=SPEC),
        at,
        [values, weight],
        x,
        seed,
    )
    close(values.grad, g * torch.where(fixed > 0, 1.0, slopes.double()))
    below = torch.where(fixed < 0, fixed.double(), 0.0)
    close(weight.grad, (g * below).sum((0, 2, 3)))


@given(st.data(), value_grids(), st.integers(0, 99), st.booleans())
def test_averages(data: st.DataObject, x: ValueGrid, seed: int, pool: bool):
    """G over the divisor, to each element of a window."""
    y = ValueGrid(scale=x.scale / 2, zero_point=x.zero_point)
    values = leaf(dequantized(data.draw(some_integers(x, SHAPE)), x))
    fixed = values.detach()
    at = F.avg_pool2d(fixed, 2, divisor_override=1) / 4 if pool else fixed.sum((2, 3)) / 16
    qparams, window = qparams_of(x), Window((2, 2), (2, 2), (0, 0))

    def operator(values: Tensor, y: Output) -> Tensor:
        if pool:
            return codes.average_pool(values, qparams, output=y, spec=SPEC, window=window)
        return codes.mean(values, qparams, output=y, spec=SPEC, dim=(2, 3))

    g = check(operator, at, [values], y, seed)
    if pool:
        close(values.grad, g.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4)
    else:
        close(values.grad, (g / 16)[:, :, None, None].expand(SHAPE))
