"""Laws of quantize, dequantize and fake_quantize."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.grids import Affine, affines
from property_tests.strategies.tensors import permutations, powers_of_two
from qatfunc import QParams, dequantize, fake_quantize, quantize, quantize_centered
from tests.support.bits import same_bits


@given(affines())
def test_on_the_grid(case: Affine):
    """Codes lie within qmin..qmax, and x becomes a whole number of steps from zero."""
    q = quantize(*case).int()
    assert q.min() >= case.spec.qmin
    assert q.max() <= case.spec.qmax
    steps = q - case.qparams.zero_point
    assert torch.equal(fake_quantize(*case), steps * case.qparams.scale)
    assert torch.equal(quantize_centered(*case), steps)


@given(affines())
def test_the_formula(case: Affine):
    """Codes are clamp(round(x / scale) + zero_point, qmin, qmax), each operation in float32."""
    x, (scale, zero_point), spec = case
    rounded = np.rint(x.numpy() / scale.numpy()).astype(np.float64)
    want = np.clip(rounded + zero_point.numpy(), spec.qmin, spec.qmax)
    assert np.array_equal(quantize(*case).numpy(), want)


@given(affines())
def test_within_half_a_step_inside_the_range(case: Affine):
    """|x' - x| <= scale / 2 where x lies between the ends of the grid."""
    x, (scale, zero_point), spec = (case.x.double(), *case[1:])
    inside = (x >= (spec.qmin - zero_point) * scale) & (x <= (spec.qmax - zero_point) * scale)
    error = (fake_quantize(*case).double() - x).abs()
    rounding = 2.0**-22 * x.abs()  # of the division and the product, in float32
    assert (error <= scale.double() / 2 + rounding)[inside].all()


@given(affines())
def test_outside_the_range_the_end_is_taken(case: Affine):
    """A value beyond an end of the grid becomes that end."""
    x, (scale, zero_point), spec = case
    low, high = (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale
    y = fake_quantize(*case)
    assert torch.equal(y[x > high], high.expand_as(x)[x > high])
    assert torch.equal(y[x < low], low.expand_as(x)[x < low])


@given(affines())
def test_idempotent(case: Affine):
    """fake_quantize(fake_quantize(x)) = fake_quantize(x)."""
    once = fake_quantize(*case)
    assert torch.equal(fake_quantize(once, *case[1:]), once)


@given(affines())
def test_monotone(case: Affine):
    """From x <= z follows fake_quantize(x) <= fake_quantize(z)."""
    ordered = case.x.sort(-1).values
    y = fake_quantize(ordered, *case[1:])
    assert (y.diff(dim=-1) >= 0).all()


@given(affines(), st.data())
def test_rows_commute(case: Affine, data: st.DataObject):
    """Permuting rows with their scales permutes the result."""
    order = data.draw(permutations(count=len(case.x)))
    scale, zero_point = (p if len(p) == 1 else p[order] for p in case.qparams)
    permuted = quantize(case.x[order], QParams(scale, zero_point), case.spec)
    assert torch.equal(permuted, quantize(*case)[order])


@given(affines(), powers_of_two(low=-20, high=20))
def test_powers_of_two_commute(case: Affine, factor: float):
    """Scaling x and scale by a power of two scales the result and keeps the codes."""
    scaled = QParams(case.qparams.scale * factor, case.qparams.zero_point)
    assert torch.equal(quantize(case.x * factor, scaled, case.spec), quantize(*case))
    y = fake_quantize(case.x * factor, scaled, case.spec)
    assert same_bits(y, fake_quantize(*case) * factor)


@given(affines())
def test_fake_quantize_is_dequantize_of_quantize(case: Affine):
    """fake_quantize(x) = dequantize(quantize(x))."""
    assert torch.equal(fake_quantize(*case), dequantize(quantize(*case), case.qparams))


@given(affines())
def test_inputs_are_unchanged(case: Affine):
    """No function writes to x, scale or zero_point."""
    before = [t.clone() for t in (case.x, *case.qparams)]
    dequantize(quantize(*case), case.qparams)
    fake_quantize(*case)
    after = (case.x, *case.qparams)
    assert all(same_bits(a, b) for a, b in zip(after, before, strict=True))
