"""Checkpoints and copies: continuing from one equals not having stopped, in every bit."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT
from qatfunc.calibration import EXACT_VALUES
from tests.support.bits import same_bits, same_state
from tests.support.modules.layers import KINDS, LEARNED, NAMES, calibrated, config, state


def through_a_file(value, *, weights_only=True):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def train(layer, optimizer, batches):
    """Step on each batch and return every output."""
    outputs = []
    for x in batches:
        y = layer(x)
        optimizer.zero_grad()
        y.square().mean().backward()
        optimizer.step()
        outputs.append(y.detach())
    return outputs


def adam(layer):
    return torch.optim.Adam(layer.parameters(), lr=0.01)


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("name", NAMES)
def test_saving_loading_and_continuing_equals_not_stopping(name, stop):
    kind = KINDS[name]
    data, weight = {"batch_num": 3}, LEARNED
    batches = [kind.batch() for _ in range(6)]
    layer = kind.layer(data, weight)
    first = state(layer)
    whole = train(layer, adam(layer), batches)

    stopped = kind.layer(data, weight)
    stopped.load_state_dict(first)
    optimizer = adam(stopped)
    parts = train(stopped, optimizer, batches[:stop])
    saved = through_a_file({"model": stopped.state_dict(), "optimizer": optimizer.state_dict()})
    resumed = kind.layer(data, weight)
    resumed.load_state_dict(saved["model"], strict=True)
    optimizer = adam(resumed)
    optimizer.load_state_dict(saved["optimizer"])
    parts += train(resumed, optimizer, batches[stop:])

    assert all(same_bits(a, b) for a, b in zip(whole, parts, strict=True))
    assert same_state(state(resumed), state(layer))


def test_stopping_amid_a_calibration_too_large_to_keep_its_values():
    # Two batches pass EXACT_VALUES, so the checkpoint holds a histogram.
    batches = [torch.randn(1, 1, 210, 210) * (1 + i) for i in range(4)]
    assert batches[0].numel() < EXACT_VALUES < 2 * batches[0].numel()
    layers = [Conv2dQAT(1, 1, 3, config=config({"batch_num": 4})) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for x in batches:
        layers[0](x)
        layers[1](x)
        layers[1], old = Conv2dQAT(1, 1, 3, config=config({"batch_num": 4})), layers[1]
        layers[1].load_state_dict(through_a_file(old.state_dict()))
    assert layers[1].calibrated
    assert same_state(state(layers[0]), state(layers[1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_calibration_only_while_it_is_under_way(name):
    layer = KINDS[name].layer({"batch_num": 2})
    names = set(layer.state_dict())
    layer(KINDS[name].batch())
    extra = set(layer.state_dict()) - names
    assert extra == {
        f"calibration.acts.{field}"
        for field in (
            "batches",
            "values",
            "total",
            "exponent",
            "counts",
            "sums",
            "near",
            "largest",
            "smallest",
        )
    }
    layer(KINDS[name].batch())
    assert set(layer.state_dict()) == names


def test_loading_leaves_the_callers_dict_alone():
    layer = LinearQAT(3, 2, config=config({"batch_num": 2}))
    layer(torch.randn(4, 3))
    for model in (layer, nn.Sequential(layer)):
        saved = model.state_dict()
        names = list(saved)
        model.load_state_dict(saved)
        assert list(saved) == names


def test_loading_into_a_model_of_layers():
    def make():
        return nn.ModuleDict(
            {"a": nn.Sequential(LinearQAT(3, 3), LinearQAT(3, 3, config=config({"batch_num": 3})))}
        )

    model, other = make(), make()
    model["a"](torch.randn(4, 3))
    saved = through_a_file(model.state_dict())
    assert "a.1.calibration.acts.values" in saved
    other.load_state_dict(saved, strict=True)
    assert [layer.calibrated for layer in other["a"]] == [True, False]
    assert same_state(state(model), state(other))


def test_a_calibrated_checkpoint_goes_into_an_untouched_layer_and_back():
    layer, x = calibrated("conv2d")
    untouched = state(KINDS["conv2d"].layer())
    other = KINDS["conv2d"].layer()
    other.load_state_dict(layer.state_dict())
    assert other.calibrated
    assert same_bits(other.eval()(x), layer.eval()(x))
    other.load_state_dict(untouched)
    assert not other.calibrated


@pytest.mark.parametrize("batch_num", [1, 3])
def test_calibration_done_stays_done_whatever_batch_num_the_loading_layer_has(batch_num):
    layer, x = calibrated("linear", {"batch_num": 2})
    other = KINDS["linear"].layer({"batch_num": batch_num})
    other.load_state_dict(layer.state_dict())
    assert other.calibrated
    assert same_bits(other(x), layer(x))


def test_calibration_under_way_goes_on_in_a_layer_of_a_smaller_batch_num():
    batches = torch.randn(3, 4, 5)
    layer = KINDS["linear"].layer({"batch_num": 5})
    layer(batches[0])
    layer(batches[1])
    other = KINDS["linear"].layer({"batch_num": 1})
    other.load_state_dict(layer.state_dict())
    assert not other.calibrated
    other(batches[2])
    assert other.calibrated
    direct = LinearQAT(5, 4, config=config({"batch_num": 3}))
    for x in batches:
        direct(x)
    assert same_bits(other.acts_clip_max.detach(), direct.acts_clip_max.detach())


def test_a_float_checkpoint_changes_weights_and_nothing_of_calibration():
    batches = torch.randn(3, 4, 5)
    layers = [LinearQAT(5, 4, config=config({"batch_num": 3})) for _ in range(2)]
    plain = nn.Linear(5, 4)
    for i, x in enumerate(batches):
        for layer in layers:
            layer(x)
        if i == 1:
            missing, unexpected = layers[1].load_state_dict(plain.state_dict(), strict=False)
            assert not unexpected
            assert "cur_batch" in missing
    assert same_bits(layers[1].weight.detach(), plain.weight.detach())
    for key in ("acts_clip_max", "acts_clip_min"):
        assert same_bits(
            layers[1].get_parameter(key).detach(), layers[0].get_parameter(key).detach()
        )


@pytest.mark.parametrize("given", [None, 2.0])
def test_trained_weight_scales_do_not_start_again_after_loading(given):
    layer, other = (LinearQAT(5, 4, config=config({"clip_max": given}, LEARNED)) for _ in range(2))
    layer(torch.randn(3, 5))
    layer.wts_scales.data.mul_(1.5)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 5)
    assert same_bits(other(x), layer(x))
    assert same_bits(other.wts_scales.detach(), layer.wts_scales.detach())


def copies(layer):
    return {
        "deepcopy": copy.deepcopy(layer),
        "pickle": pickle.loads(pickle.dumps(layer)),
        "torch.save": through_a_file(layer, weights_only=False),
    }


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("phase", [0, 1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_copies_are_equal_and_independent(name, phase, how):
    layer = KINDS[name].layer({"batch_num": 2}, LEARNED)
    for _ in range(phase):
        layer(KINDS[name].batch())
    twin = copies(layer)[how]
    before = state(layer)
    assert same_state(state(twin), before)
    batches = [KINDS[name].batch() for _ in range(3)]
    outputs = train(twin, adam(twin), batches)
    assert same_state(state(layer), before)
    again = train(layer, adam(layer), batches)
    assert all(same_bits(a, b) for a, b in zip(outputs, again, strict=True))
    assert same_state(state(layer), state(twin))


@pytest.mark.parametrize("assign", [False, True])
def test_loading_by_assignment(assign):
    layer, x = calibrated("linear")
    other = KINDS["linear"].layer()
    other.load_state_dict(state(layer), assign=assign)
    assert same_bits(other.eval()(x), layer.eval()(x))
    assert isinstance(other.weight, nn.Parameter)


@pytest.mark.parametrize("phase", [1, 2])
def test_to_moves_everything_calibration_included(phase):
    layer = KINDS["linear"].layer({"batch_num": 2})
    for _ in range(phase):
        layer(KINDS["linear"].batch())
    moved = copy.deepcopy(layer).to("meta")
    assert {value.device.type for value in moved.state_dict().values()} == {"meta"}
    assert set(moved.state_dict()) == set(layer.state_dict())


def test_to_a_dtype_and_back_still_computes():
    layer, x = calibrated("linear")
    expected = layer(x)
    assert same_bits(layer.to(torch.float64).to(torch.float32)(x), expected)
