"""The modules against the recordings of the reference: calibration, then one training step.

The reference overwrites its weights at every forward, so the weight just before the step is set
by hand. Its y is a float32 sum of products of rounded floats plus the float bias; ours is an exact
integer sum plus the bias rounded to the accumulator's step. So the bias is taken off on both sides
(each side its own), and what is left may differ by the reference's rounding, FLOAT_ROUNDING.
"""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT
from qatfunc import ulq_qparams
from qatfunc.params import Clip
from tests.support.golden.make import CHOSEN
from tests.support.golden.recordings import Case, cases, is_whole, load

# The recordings do not hold the hyperparameters; these are the ones that fit all their shapes.
LAYERS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "conv2d": (Conv2dQAT, (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}),
    "conv_transpose2d": (ConvTranspose2dQAT, (4, 3, 3), {"stride": 2, "padding": 1}),
    "conv3d": (Conv3dQAT, (2, 3, (2, 3, 3)), {"padding": 1, "bias": False}),
    "linear": (LinearQAT, (9, 5), {}),
}

# A few units in the last place of outputs below 8; a step of an accumulator is at least 2.7e-5.
FLOAT_ROUNDING = 2e-6

# Gradients are float32 sums in another order, of up to 250 products of a size of about 1.
GRADIENT = {"rtol": 1e-5, "atol": 1e-5}


def recorded_config(case: Case) -> dict[str, Any]:
    """Return the recorded configuration, and that ranges are searched as by the reference."""
    config: dict[str, Any] = json.loads(case.meta["config"])
    data = {**(config.get("retrain_data_config") or {}), "range_search": "ifmr"}
    return {**config, "retrain_data_config": data}


class Step:
    """One recorded training step, computed by ours."""

    def __init__(self, case: Case):
        recorded = case.arrays
        make, sizes, geometry = LAYERS[case.meta["op"]]
        layer: Any = make(*sizes, **geometry, config=recorded_config(case))
        layer.weight.data = recorded["weight_initial"].clone()
        assert (layer.bias is not None) == ("bias" in recorded)
        if layer.bias is not None:
            layer.bias.data = recorded["bias"].clone()
        for x in recorded["calibration"]:
            assert not layer.calibrated
            layer(x)
        assert layer.calibrated
        layer.weight.data = recorded["weight"].clone()
        self.layer, self.x = layer, recorded["x"].clone().requires_grad_()
        self.y = layer(self.x)
        self.y.backward(recorded["grad_y"])
        clip = Clip(layer.acts_clip_max.detach(), layer.acts_clip_min.detach())
        self.qparams = ulq_qparams(clip, layer.config.layer.activation)
        self.scale_w = layer._arq_scale()

    def without_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        shape = (-1,) if y.ndim == 2 else (-1, *(1,) * (y.ndim - 2))
        return y.detach().double() - bias.double().reshape(shape)

    @property
    def rounded_bias(self) -> Tensor:
        rescale = self.qparams.scale * self.scale_w
        return torch.round(self.layer.bias.detach() / rescale).double() * rescale.double()


@cases("modules")
def test_calibration_finds_the_references_range(case: Case):
    ours, recorded = Step(case), case.arrays
    assert torch.equal(ours.layer.acts_clip_max.detach(), recorded["clip_max"])
    assert torch.equal(ours.layer.acts_clip_min.detach(), recorded["clip_min"])
    assert torch.equal(ours.qparams.scale.reshape(1), recorded["act_scale"])
    assert torch.equal(ours.qparams.zero_point.reshape(1), recorded["act_offset"].float())
    assert torch.equal(ours.scale_w, recorded["weight_scale"])
    assert torch.equal(ours.layer.weight.detach(), recorded["weight"])


@cases("modules")
def test_output_is_the_references_up_to_its_rounding(case: Case):
    ours, recorded = Step(case), case.arrays
    if "bias" in recorded:
        mine = ours.without_bias(ours.y, ours.rounded_bias)
        reference = ours.without_bias(recorded["y"], recorded["bias"])
    else:
        mine, reference = ours.y.detach().double(), recorded["y"].double()
    # No recorded activation lies on a tie, so every accumulator is the same integer.
    step = ours.qparams.scale * ours.scale_w.min()
    assert step > 10 * FLOAT_ROUNDING
    assert (mine - reference).abs().max() <= FLOAT_ROUNDING


@cases("modules")
def test_gradients_are_the_references(case: Case):
    ours, recorded = Step(case), case.arrays
    torch.testing.assert_close(ours.x.grad, recorded["grad_x"], **GRADIENT)
    torch.testing.assert_close(ours.layer.weight.grad, recorded["grad_weight"], **GRADIENT)
    if "grad_bias" in recorded:
        torch.testing.assert_close(ours.layer.bias.grad, recorded["grad_bias"], **GRADIENT)
    for end in ("max", "min"):
        gradient = getattr(ours.layer, f"acts_clip_{end}").grad
        torch.testing.assert_close(gradient, recorded[f"grad_clip_{end}"], **GRADIENT)


@cases("modules")
def test_steps_are_the_references_update_of_the_float_weight(case: Case):
    # The reference trains the weight it has just rounded; ours keeps the one it was given.
    ours, recorded = Step(case), case.arrays
    torch.optim.SGD(ours.layer.parameters(), lr=0.125).step()
    expected = recorded["weight"] - 0.125 * recorded["grad_weight"]
    torch.testing.assert_close(ours.layer.weight.detach(), expected, **GRADIENT)


def test_every_operator_and_setting_is_recorded():
    metas = [case.meta for case in load("modules").values()]
    count = 28 if is_whole("modules") else len(CHOSEN["modules"])
    assert {meta["op"] for meta in metas} == set(LAYERS)
    assert len(metas) == len({(meta["op"], meta["config"]) for meta in metas}) == count
    assert (
        np.mean([json.loads(m["config"])["retrain_data_config"]["fixed_min"] for m in metas]) == 0.5
    )
