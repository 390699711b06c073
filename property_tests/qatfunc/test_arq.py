"""Laws of ARQ: the scale that a weight gives itself."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.grids import weight_specs
from property_tests.strategies.tensors import EPS, permutations, powers_of_two
from property_tests.strategies.weights import Weight, weights
from qatfunc import WeightSpec, arq_qparams, arq_quantize, fake_quantize, quantize
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions.integer_reference import output_channels, weight_codes

PER_CHANNEL = weight_specs(per_channel=(True,))
PLAIN, TRANSPOSED = ((False, 1),), ((True, 1), (True, 2))


@given(weights(), weight_specs())
def test_on_the_grid(case: Weight, spec: WeightSpec):
    """Codes are integers within qmin..qmax and hold no negative zero."""
    integers, _ = arq_quantize(case.weight, spec, **case.layout)
    assert torch.equal(integers, torch.round(integers))
    assert integers.min() >= spec.qmin
    assert integers.max() <= spec.qmax
    assert not has_negative_zero(integers)


@given(weights(), weight_specs())
def test_the_formula(case: Weight, spec: WeightSpec):
    """Codes and scales are those of the formula, channel by channel, in every bit."""
    codes, scales = weight_codes(case.weight.numpy(), spec, None, **case.layout)
    integers, qparams = arq_quantize(case.weight, spec, **case.layout)
    assert np.array_equal(integers.numpy(), codes)
    assert set(qparams.scale.flatten().tolist()) == set(scales.tolist())


@given(weights(), weight_specs())
def test_within_half_a_step(case: Weight, spec: WeightSpec):
    """|w' - w| <= scale / 2 everywhere, but on the upper side of a range wider below."""
    qparams = arq_qparams(case.weight, spec, **case.layout)
    w, scale = case.weight.double(), qparams.scale.double()
    error = (fake_quantize(case.weight, qparams, spec).double() - w).abs()
    inside = w <= spec.qmax * scale
    assert (error <= scale / 2 + 2.0**-22 * w.abs())[inside].all()
    assert (error < scale)[~inside].all()


@given(weights(), weight_specs())
def test_the_extreme_weight_meets_the_grids_end(case: Weight, spec: WeightSpec):
    """Some code under each scale lies on an end of the grid, unless the scale was replaced."""
    integers, qparams = arq_quantize(case.weight, spec, **case.layout)
    assert (qparams.scale >= EPS).all()
    scale = qparams.scale.expand_as(integers)
    channels = output_channels(integers, **case.layout) if spec.per_channel else [(...,)]
    for part in channels:
        assert integers[part].abs().max() >= spec.qmax or (scale[part] == 1.0).all()


@given(weights(), weight_specs())
def test_zero_and_tiny_channels_take_the_scale_one(case: Weight, spec: WeightSpec):
    """A weight below epsilon on the whole has the scale 1 and the code 0."""
    tiny = torch.where(case.weight > 0, EPS / 2, -0.0)
    integers, qparams = arq_quantize(tiny, spec, **case.layout)
    assert (qparams.scale == 1.0).all()
    assert not integers.any()


@given(weights(layouts=PLAIN), weight_specs())
def test_codes_are_idempotent(case: Weight, spec: WeightSpec):
    """Quantizing the quantized weight gives the same codes, if no channel is all negative.

    (An all-negative channel whose weights become equal changes its side: |max| is |min| then.)
    """
    weight = torch.cat([case.weight, torch.zeros_like(case.weight[:, :1])], 1)
    qparams = arq_qparams(weight, spec)
    once = fake_quantize(weight, qparams, spec)
    codes = quantize(once, arq_qparams(once, spec), spec)
    assert torch.equal(codes, quantize(weight, qparams, spec))


@given(weights(), weight_specs())
def test_monotone_within_a_scale(case: Weight, spec: WeightSpec):
    """Under one scale w <= v implies w' <= v'."""
    scale = arq_qparams(case.weight, spec, **case.layout).scale.expand_as(case.weight)
    codes, _ = arq_quantize(case.weight, spec, **case.layout)
    for one in scale.unique():
        order = case.weight[scale == one].argsort()
        assert (codes[scale == one][order].diff() >= 0).all()


@given(weights(layouts=PLAIN), PER_CHANNEL, st.data())
def test_channels_commute(case: Weight, spec: WeightSpec, data: st.DataObject):
    """Permuting output channels permutes codes and scales."""
    order = data.draw(permutations(count=len(case.weight)))
    integers, qparams = arq_quantize(case.weight, spec)
    permuted, permuted_qparams = arq_quantize(case.weight[order], spec)
    assert torch.equal(permuted, integers[order])
    assert torch.equal(permuted_qparams.scale, qparams.scale[order])


@given(weights(layouts=TRANSPOSED), PER_CHANNEL, st.data())
def test_transposed_channels_commute(case: Weight, spec: WeightSpec, data: st.DataObject):
    """Permuting the columns of a transposed weight permutes codes and scales."""
    order = data.draw(permutations(count=case.weight.shape[1]))
    integers, qparams = arq_quantize(case.weight, spec, **case.layout)
    permuted, permuted_qparams = arq_quantize(case.weight[:, order], spec, **case.layout)
    assert torch.equal(permuted, integers[:, order])
    assert torch.equal(permuted_qparams.scale, qparams.scale[:, order])


@given(weights(), weight_specs(), powers_of_two(low=0, high=20))
def test_powers_of_two_commute(case: Weight, spec: WeightSpec, factor: float):
    """Scaling a weight by a power of two scales its scales, where they are not replaced."""
    qparams = arq_qparams(case.weight, spec, **case.layout)
    scaled = arq_qparams(case.weight * factor, spec, **case.layout)
    meant = (scaled.scale != 1.0) & (qparams.scale != 1.0)
    assert torch.equal(scaled.scale[meant], qparams.scale[meant] * factor)
    same = meant.expand_as(case.weight)
    codes = quantize(case.weight * factor, scaled, spec)
    assert torch.equal(codes[same], quantize(case.weight, qparams, spec)[same])


@given(weights(), weight_specs())
def test_the_gradient_is_straight_through(case: Weight, spec: WeightSpec):
    """dL/dw = dL/dw' for every element."""
    weight = case.weight.requires_grad_()
    integers, qparams = arq_quantize(weight, spec, **case.layout)
    upstream = torch.linspace(-2.0, 3.0, weight.numel()).reshape(weight.shape)
    (integers * qparams.scale).backward(upstream)
    torch.testing.assert_close(weight.grad, upstream, rtol=2.0**-22, atol=0.0)


@given(weights(), weight_specs())
def test_the_weight_is_unchanged(case: Weight, spec: WeightSpec):
    """Nothing writes to the weight."""
    before = case.weight.clone()
    arq_quantize(case.weight, spec, **case.layout)
    assert same_bits(case.weight, before)
