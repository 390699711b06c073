"""Laws of LSQ: a weight's scale as a parameter."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.grids import Affine, affines
from property_tests.strategies.tensors import permutations, powers_of_two
from qatfunc import QParams, fake_quantize, lsq_quantize
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients


def quantized(case: Affine) -> tuple[torch.Tensor, QParams]:
    return lsq_quantize(case.x, case.qparams.scale, case.spec, channels=len(case.x))


@given(affines())
def test_on_the_grid(case: Affine):
    """Codes are integers within qmin..qmax without negative zeros; the zero point is 0."""
    integers, qparams = quantized(case)
    assert torch.equal(integers, torch.round(integers))
    assert integers.min() >= case.spec.qmin
    assert integers.max() <= case.spec.qmax
    assert not has_negative_zero(integers)
    assert not qparams.zero_point.any()


@given(affines())
def test_it_is_symmetric_affine_quantization(case: Affine):
    """It is fake_quantize(w) = q * scale with the zero point 0."""
    scale = case.qparams.scale
    integers, _ = quantized(case)
    symmetric = QParams(scale, torch.zeros_like(scale))
    assert torch.equal(integers * scale, fake_quantize(case.x, symmetric, case.spec))


@given(affines())
def test_idempotent(case: Affine):
    """Quantizing the quantized weight by the same scale gives the same codes."""
    integers, qparams = quantized(case)
    again, _ = quantized(case._replace(x=integers * qparams.scale))
    assert torch.equal(again, integers)


@given(affines())
def test_monotone(case: Affine):
    """Under one scale w <= v implies w' <= v'."""
    integers, _ = quantized(case._replace(x=case.x.sort(-1).values))
    assert (integers.diff(dim=-1) >= 0).all()


@given(affines(), st.data())
def test_channels_commute(case: Affine, data: st.DataObject):
    """Permuting channels with their scales permutes the codes."""
    order = data.draw(permutations(count=len(case.x)))
    scale = case.qparams.scale
    moved = scale if len(scale) == 1 else scale[order]
    permuted, _ = lsq_quantize(case.x[order], moved, case.spec, channels=len(case.x))
    assert torch.equal(permuted, quantized(case)[0][order])


@given(affines(), powers_of_two(low=-10, high=10))
def test_powers_of_two_commute(case: Affine, factor: float):
    """Scaling weight and scale by a power of two keeps the codes."""
    scaled, _ = lsq_quantize(
        case.x * factor, case.qparams.scale * factor, case.spec, channels=len(case.x)
    )
    assert torch.equal(scaled, quantized(case)[0])


@given(affines())
def test_the_gradients_are_the_formulas(case: Affine):
    """The weight's gradient is straight through; the scale's equals a sum in float64."""
    weight, scale = (t.clone().requires_grad_() for t in (case.x, case.qparams.scale))
    integers, qparams = lsq_quantize(weight, scale, case.spec, channels=len(weight))
    upstream = torch.linspace(-2.0, 3.0, weight.numel()).reshape(weight.shape)
    (integers * qparams.scale).backward(upstream)
    want = float64_gradients.lsq_scale(
        case.x,
        case.qparams.scale,
        upstream,
        bits=case.spec.bits,
        elements=weight.numel() // len(weight),
    )
    torch.testing.assert_close(weight.grad, upstream, rtol=2.0**-22, atol=0.0)
    atol = 1e-6 * case.spec.qmax * weight.numel()
    torch.testing.assert_close(scale.grad.double(), want, rtol=1e-5, atol=atol)


@given(affines())
def test_inputs_are_unchanged(case: Affine):
    """Nothing writes to weight or scale."""
    before = case.x.clone(), case.qparams.scale.clone()
    quantized(case)
    assert same_bits(case.x, before[0])
    assert same_bits(case.qparams.scale, before[1])
