"""qatfunc against the recordings of the reference.

Forward results, scales, zero points and clips are equal in every bit, except where the reference
rounds after adding its offset (ULQ): there, and only on ties, one step of difference is allowed in
at most 1 of 10,000 elements. Gradients are sums of float32 in another order: GRADIENT says how
close they are.
"""

import pytest
import torch
from torch import Tensor

from qatfunc import (
    ActivationSpec,
    Clip,
    IntSpec,
    QParams,
    SearchSpec,
    WeightSpec,
    arq_qparams,
    arq_quantize,
    calibration,
    fake_quantize,
    lsq_quantize,
    resolve_clip,
    ulq_quantize,
)
from qatfunc.linear_maps.channels import per_output, to_full_rank
from tests.support.golden.make import CHOSEN
from tests.support.golden.recordings import SUBSET, Case, cases, load, read

GRADIENT = {"rtol": 1e-5, "atol": 1e-7}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_subset_in_the_repository_is_of_the_whole_recordings(name: str):
    ours, whole = read(SUBSET, name), load(name)
    assert sorted(ours) == sorted(CHOSEN[name])
    for number, case in ours.items():
        assert case.meta == whole[number].meta
        assert case.arrays.keys() == whole[number].arrays.keys() != set()
        assert all(torch.equal(a, whole[number].arrays[key]) for key, a in case.arrays.items())


@cases("arq_weight")
def test_arq_weight(case: Case):
    weight = case.arrays["weight"]
    layout = {"transposed": "transpose" in case.meta["op"], "groups": case.meta["groups"]}
    spec = WeightSpec(per_channel=case.meta["channel_wise"])
    qparams = arq_qparams(weight, spec, **layout)
    integers, same_qparams = arq_quantize(weight, spec, **layout)

    assert torch.equal(per_output(qparams.scale, **layout), case.arrays["scale"])
    assert torch.equal(same_qparams.scale, qparams.scale)
    assert not case.arrays["offset"].any()
    assert not qparams.zero_point.any()
    assert torch.equal(fake_quantize(weight, qparams, spec), case.arrays["fake_quantized"])
    assert torch.equal(integers * qparams.scale, case.arrays["fake_quantized"])


@cases("ifmr_clip_search")
def test_ifmr_clip_search(case: Case):
    meta, spec = case.meta, ActivationSpec(bits=case.meta["bits"])
    how = SearchSpec(
        max_percentile=meta["percentile"],
        min_percentile=meta["percentile"],
        start=meta["search_start"],
        end=meta["search_end"],
        step=meta["search_step"],
        method="ifmr",
        symmetric=not meta["with_offset"],
    )
    state = calibration.update(calibration.init(), case.arrays["x"])
    found = calibration.search(state, spec, how)

    assert torch.equal(found.scale.reshape(1), case.arrays["scale"])
    assert torch.equal(found.clip.max, case.arrays["clip_max"])
    assert torch.equal(found.clip.min, case.arrays["clip_min"])


class Ulq:
    """One recorded forward and backward, computed by qatfunc."""

    def __init__(self, case: Case):
        recorded, meta = case.arrays, case.meta
        spec = ActivationSpec(
            bits=meta["bits"], symmetric=not meta["asymmetric"], fixed_min=meta["fixed_min"]
        )
        self.x = recorded["x"].clone().requires_grad_()
        self.clip = Clip(
            recorded["clip_max_in"].clone().requires_grad_(),
            recorded["clip_min_in"].clone().requires_grad_(),
        )
        previous = Clip(recorded["clip_max_previous"], recorded["clip_min_previous"])
        self.resolved = resolve_clip(self.clip, previous, spec)
        integers, self.qparams = ulq_quantize(self.x, self.resolved, spec)
        self.y = integers * self.qparams.scale
        self.y.backward(recorded["grad_y"])


@cases("ulq_activation")
def test_ulq_range(case: Case):
    ours = Ulq(case)
    assert torch.equal(ours.resolved.max, case.arrays["clip_max"])
    assert torch.equal(ours.resolved.min, case.arrays["clip_min"])
    assert torch.equal(ours.qparams.scale.reshape(1), case.arrays["scale"])
    assert torch.equal(ours.qparams.zero_point.reshape(1), case.arrays["offset"].float())


@cases("ulq_activation")
def test_ulq_output_is_at_most_one_step_away(case: Case):
    ours, recorded = Ulq(case), case.arrays
    steps = torch.round(ours.y / ours.qparams.scale) - torch.round(
        recorded["y"] / recorded["scale"]
    )
    assert steps.abs().max() <= 1
    assert torch.equal(ours.y[steps == 0], recorded["y"][steps == 0])


@cases("ulq_activation")
def test_ulq_gradients(case: Case):
    ours = Ulq(case)
    assert torch.equal(ours.x.grad == 0, case.arrays["grad_x"] == 0)
    torch.testing.assert_close(ours.x.grad, case.arrays["grad_x"], **GRADIENT)
    torch.testing.assert_close(ours.clip.max.grad, case.arrays["grad_clip_max"], **GRADIENT)
    torch.testing.assert_close(ours.clip.min.grad, case.arrays["grad_clip_min"], **GRADIENT)


def test_ulq_outputs_differ_in_at_most_one_of_10000_elements():
    everything = load("ulq_activation").values()
    elements = sum(case.arrays["y"].numel() for case in everything)
    different = sum((Ulq(case).y != case.arrays["y"]).sum().item() for case in everything)
    assert different * 10_000 <= elements


class Lsq:
    """One recorded forward and backward, computed by qatfunc."""

    def __init__(self, case: Case):
        recorded = case.arrays
        self.weight = recorded["weight"].clone().requires_grad_()
        self.scale = recorded["scale"].clone().requires_grad_()
        full = to_full_rank(self.scale, self.weight, transposed=False, groups=1)
        channels = len(self.weight)
        integers, self.qparams = lsq_quantize(self.weight, full, IntSpec(), channels=channels)
        self.y: Tensor = integers * self.qparams.scale
        self.y.backward(recorded["grad_y"])


@cases("learned_weight_scale")
def test_lsq_output(case: Case):
    assert torch.equal(Lsq(case).y, case.arrays["y"])


@cases("learned_weight_scale")
def test_lsq_gradients(case: Case):
    ours = Lsq(case)
    torch.testing.assert_close(ours.weight.grad, case.arrays["grad_weight"], **GRADIENT)
    torch.testing.assert_close(ours.scale.grad, case.arrays["grad_scale"], **GRADIENT)


@cases("learned_weight_scale", scale_from_arq=True)
def test_lsq_starts_from_arq(case: Case):
    spec = WeightSpec(per_channel=case.meta["channel_wise"])
    qparams: QParams = arq_qparams(case.arrays["weight"], spec)
    assert torch.equal(qparams.scale.flatten(), case.arrays["scale"])
