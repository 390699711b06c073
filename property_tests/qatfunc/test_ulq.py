"""Laws of ULQ: a range, the grid it gives, and its gradients."""

import numpy as np
import torch
from hypothesis import given

from property_tests.strategies.activations import Activation, activations, broken_clips, clips
from property_tests.strategies.grids import activation_specs
from property_tests.strategies.tensors import powers_of_two
from qatfunc import (
    ActivationSpec,
    Clip,
    dequantize,
    quantize,
    resolve_clip,
    ulq_qparams,
    ulq_quantize,
)
from qatfunc.ulq import valid_ends
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients
from tests.support.functions.integer_reference import activation_grid, centered_codes


def used(case: Activation) -> torch.Tensor:
    """The input that the operator works with."""
    integers, qparams = ulq_quantize(*case)
    return integers * qparams.scale


@given(activations())
def test_on_the_grid(case: Activation):
    """Codes n are integers within qmin - zero_point .. qmax - zero_point without negative zeros."""
    integers, (_, zero_point) = ulq_quantize(*case)
    assert torch.equal(integers, torch.round(integers))
    assert integers.min() >= case.spec.qmin - zero_point
    assert integers.max() <= case.spec.qmax - zero_point
    assert not has_negative_zero(integers)


@given(activations())
def test_the_formula(case: Activation):
    """Scale, zero point and codes are those of the formulas, in every bit."""
    ends = [end.numpy()[()] for end in case.clip]
    scale, zero_point = activation_grid(*ends, case.spec)
    integers, qparams = ulq_quantize(*case)
    assert (qparams.scale.item(), qparams.zero_point.item()) == (scale, zero_point)
    want = centered_codes(case.x.numpy(), scale, zero_point, case.spec.bits)
    assert np.array_equal(integers.numpy(), want)


@given(clips(), activation_specs())
def test_the_zero_point_is_a_code(clip: Clip, spec: ActivationSpec):
    """The zero point is an integer within qmin..qmax, and 0 on a symmetric grid."""
    scale, zero_point = ulq_qparams(clip, spec)
    assert scale > 0
    assert zero_point == torch.round(zero_point)
    assert spec.qmin <= zero_point <= spec.qmax
    assert not (spec.symmetric and zero_point)


@given(clips(extreme=False), activation_specs())
def test_the_grid_spans_the_range(clip: Clip, spec: ActivationSpec):
    """Each end of the grid lies within half a step of the range's end, or beyond it."""
    scale, zero_point = (t.double() for t in ulq_qparams(clip, spec))
    slack = scale * (
        1.0 if spec.symmetric else 0.51
    )  # one side of a symmetric grid has a step less
    assert (spec.qmax - zero_point) * scale >= clip.max - slack
    assert (spec.qmin - zero_point) * scale <= clip.min + slack


@given(activations())
def test_zero_is_exact(case: Activation):
    """0 becomes 0."""
    assert not used(case._replace(x=torch.zeros(2))).any()


@given(activations())
def test_within_half_a_step_inside_the_range(case: Activation):
    """|x' - x| <= scale / 2 where x lies between the ends of the grid."""
    scale, zero_point = (t.double() for t in ulq_qparams(case.clip, case.spec))
    x, spec = case.x.double(), case.spec
    inside = (x >= (spec.qmin - zero_point) * scale) & (x <= (spec.qmax - zero_point) * scale)
    error = (used(case).double() - x).abs()
    assert (error <= scale / 2 + 2.0**-22 * x.abs())[inside].all()


@given(activations())
def test_idempotent(case: Activation):
    """Quantizing x' within the same range gives x'."""
    once = used(case)
    assert torch.equal(used(case._replace(x=once)), once)


@given(activations())
def test_monotone(case: Activation):
    """From x <= z follows x' <= z'."""
    y = used(case._replace(x=case.x.flatten().sort().values))
    assert (y.diff() >= 0).all()


@given(activations(extreme=False), powers_of_two(low=0, high=20))
def test_powers_of_two_commute(case: Activation, factor: float):
    """Scaling x and the range by a power of two keeps the codes, where no scale is replaced."""
    scaled = Activation(case.x * factor, Clip(*(end * factor for end in case.clip)), case.spec)
    if ulq_qparams(case.clip, case.spec).scale != 1.0:
        assert torch.equal(ulq_quantize(*scaled)[0], ulq_quantize(*case)[0])
        assert torch.equal(used(scaled), used(case) * factor)


@given(activations())
def test_it_is_dequantize_of_quantize(case: Activation):
    """It is x' = dequantize(quantize(x)) with the range's grid."""
    qparams = ulq_qparams(case.clip, case.spec)
    assert torch.equal(used(case), dequantize(quantize(case.x, qparams, case.spec), qparams))


@given(activations(extreme=False))
def test_the_gradients_are_the_formulas(case: Activation):
    """Gradients of x, max and min equal sums in float64."""
    x, high, low = (t.clone().requires_grad_() for t in (case.x, *case.clip))
    integers, qparams = ulq_quantize(x, Clip(high, low), case.spec)
    upstream = torch.linspace(-2.0, 3.0, x.numel()).reshape(x.shape)
    (integers * qparams.scale).backward(upstream)
    want = float64_gradients.ulq(case.x, case.clip, qparams, upstream, bits=case.spec.bits)
    assert torch.equal(x.grad == 0, want.x == 0)
    for ours, theirs in zip((x.grad, high.grad, low.grad), want, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


@given(broken_clips(), clips(), activation_specs())
def test_a_resolved_range_is_valid(clip: Clip, previous: Clip, spec: ActivationSpec):
    """Whatever training did, max > min and max >= 0 >= min, given a valid previous range."""
    if spec.fixed_min and previous.max == 0:
        previous = Clip(torch.tensor(1.0), previous.min)
    high, low = resolve_clip(clip, previous, spec)
    assert high > low
    assert high >= 0 >= low
    assert not (spec.fixed_min and low)
    assert max(high, -low) <= 2.0**64
    assert all(value.isfinite() for value in ulq_qparams(Clip(high, low), spec))


@given(broken_clips(), clips(), broken_clips(), activation_specs())
def test_resolving_is_idempotent(clip: Clip, previous: Clip, unused: Clip, spec: ActivationSpec):
    """A valid range stays, whatever the previous one."""
    if spec.fixed_min and previous.max == 0:
        previous = Clip(torch.tensor(1.0), previous.min)
    resolved = resolve_clip(clip, previous, spec)
    again = resolve_clip(resolved, unused, spec)
    assert torch.equal(torch.stack(again), torch.stack(resolved))


@given(broken_clips(), clips(), activations())
def test_inputs_are_unchanged(clip: Clip, previous: Clip, case: Activation):
    """Nothing writes to x or to a range."""
    before = [t.clone() for t in (case.x, *clip, *previous)]
    ulq_quantize(case.x, resolve_clip(clip, previous, case.spec), case.spec)
    after = (case.x, *clip, *previous)
    assert all(same_bits(a, b) for a, b in zip(after, before, strict=True))


@given(broken_clips(), clips(), activation_specs())
def test_a_valid_range_is_kept_and_no_other(clip: Clip, previous: Clip, spec: ActivationSpec):
    """valid_ends reads a range where resolve_clip returns it as it is."""
    resolved = resolve_clip(clip, previous, spec)
    ends = valid_ends(clip, spec)
    if ends is not None:
        assert ends == (clip.max.item(), clip.min.item())
        assert all(torch.equal(a, b) for a, b in zip(resolved, clip, strict=True))
    else:
        high, low = clip
        end = torch.zeros(()) if spec.fixed_min else low
        usable = high.abs() <= 2.0**64 and end.abs() <= 2.0**64
        assert high <= end or high < 0 or end > 0 or not torch.equal(end, low) or not usable
