"""Laws of scales on Python floats: the bits that tensors give."""

import torch
from hypothesis import given

from property_tests.strategies.activations import any_clips, clips
from property_tests.strategies.grids import activation_specs
from qatfunc import ActivationSpec, Clip, ulq_qparams
from qatfunc.arq import symmetric_scale
from qatfunc.numerics.arithmetic import FLOATS
from qatfunc.ulq import range_scale


@given(clips() | any_clips(), activation_specs())
def test_a_ranges_scale_is_that_of_tensors(clip: Clip, spec: ActivationSpec):
    """Scale and zero point are those of ulq_qparams, in every bit."""
    want = ulq_qparams(clip, spec)
    got = range_scale(clip.max.item(), clip.min.item(), spec, arithmetic=FLOATS)
    assert got == tuple(value.item() for value in want)


@given(any_clips(), activation_specs())
def test_a_weights_scale_is_that_of_tensors(ends: Clip, spec: ActivationSpec):
    """The scale is that of arq.symmetric_scale, in every bit."""
    got = symmetric_scale(ends.max.item(), ends.min.item(), spec, arithmetic=FLOATS)
    assert torch.tensor(got) == symmetric_scale(*ends, spec)
