"""adopt: what a conversion adjusted, in the torch model."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT, adopt, calibrate, verify
from bridge.export.result.conversion import AdjustedRescale
from tests.support.bits import same_state
from tests.support.conversions import convert_integers_first
from tests.support.exporters import export
from tests.support.modules.layers import state


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        Conv2dQAT(48, 64, 3), nn.ReLU(), Conv2dQAT(64, 2, 1), nn.Flatten(), LinearQAT(8, 2)
    )


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    model, x = network().eval(), torch.randn(4, 48, 4, 4)
    calibrate(model, [x])
    folder = tmp_path_factory.mktemp("adopt")
    inter = export(model, x, folder / "inter.onnx", "torchscript")
    return model, x, inter, convert_integers_first(inter, folder / "net")


def adjusted(natural, factor, name="0"):
    """A conversion that adjusted one layer."""
    change = AdjustedRescale(natural=natural, adjusted=natural * np.float32(factor), ulps=natural)
    others = [
        SimpleNamespace(name=other, adjusted=None) for other in ("0", "2", "4") if other != name
    ]
    layers = [SimpleNamespace(name=name, adjusted=change), *others]
    return SimpleNamespace(mode="exact", layers=layers, left_in_float=[])


def rescale(layer):
    constants = layer._export_constants()
    return np.float32(constants.scale_x) * np.asarray(constants.scale_w, np.float32)


def test_the_adopted_model_has_the_bits_of_both_files(converted):
    model, x, inter, done = converted
    assert done.layers[0].adjusted is not None, "or nothing is tested"
    before = verify(model, inter, done.fake_quant, done.deploy, x)
    assert before.first_torch_fake == "0"
    adopted = copy.deepcopy(model)
    assert adopt(adopted, done) is adopted
    after = verify(adopted, inter, done.fake_quant, done.deploy, x)
    assert after.exact
    assert after.first_torch_fake is None
    assert after.first_fake_deploy is None


def test_what_is_adjusted_is_what_the_layer_multiplies_by(converted):
    model, x, _, _ = converted
    adopted = adopt(copy.deepcopy(model), adjusted(rescale(model[0]), 2.0))
    assert torch.equal(adopted[0](x), model[0](x) * 2.0)


def test_a_channel_whose_scale_changed_uses_its_scale(converted):
    model, x, _, _ = converted
    adopted = adopt(copy.deepcopy(model), adjusted(rescale(model[0]), 2.0))
    changed = copy.deepcopy(model)
    for net in (adopted, changed):
        with torch.no_grad():
            net[0].weight[1] *= 1.5
    y, plain = adopted[0](x), changed[0](x)
    assert torch.equal(y[:, 1], plain[:, 1])
    assert torch.equal(y[:, 0], plain[:, 0] * 2.0)


def test_training_goes_on_as_if_nothing_was_adjusted(converted):
    model, x, _, _ = converted
    adopted = adopt(copy.deepcopy(model), adjusted(rescale(model[0]), 2.0)).train()
    plain = copy.deepcopy(model).train()
    for net in (adopted, plain):
        net(x).square().sum().backward()
    for one, other in zip(adopted.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)


def test_a_checkpoint_holds_it(converted):
    model, x, _, done = converted
    adopted = adopt(copy.deepcopy(model), done)
    loaded = network().eval()
    loaded.load_state_dict(adopted.state_dict())
    assert torch.equal(loaded(x), adopted(x))
    assert same_state(state(loaded), state(adopted))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(x), model(x)), "what was adopted belongs to the state it came with"
    assert same_state(state(loaded), state(model))


def test_converting_again_adjusts_the_same(converted, tmp_path):
    model, x, _, done = converted
    inter = export(adopt(copy.deepcopy(model), done), x, tmp_path / "m.onnx", "torchscript")
    again = convert_integers_first(inter, tmp_path / "net")
    for one, other in zip(again.layers, done.layers, strict=True):
        assert one.form == other.form
        assert (one.adjusted is None) == (other.adjusted is None)
    change, before = again.layers[0].adjusted, done.layers[0].adjusted
    assert np.array_equal(change.adjusted, before.adjusted)
    assert np.array_equal(change.natural, before.natural)


@pytest.mark.parametrize(
    ("conversion", "message"),
    [
        (adjusted(np.ones(64, np.float32), 2.0, "5"), "no quantized layer '5' to adopt for"),
        (adjusted(np.ones(64, np.float32), 2.0, "1"), "no quantized layer '1' to adopt for"),
        (
            adjusted(np.ones(3, np.float32), 2.0),
            "layer '0' has 64 channels, the conversion adjusted 3",
        ),
    ],
)
def test_a_conversion_of_another_model(converted, conversion, message):
    with pytest.raises(ValueError, match=message):
        adopt(copy.deepcopy(converted[0]), conversion)


def test_layers_that_the_file_has_not_are_named(converted):
    model, _, _, done = converted
    more = nn.Sequential(*copy.deepcopy(model), LinearQAT(2, 2))
    with pytest.warns(
        UserWarning, match="layers that are not in the file: 5; the model did not call"
    ):
        adopt(more, done)
    assert "adopted_rescale" in more[0]._buffers


def test_nothing_is_adopted_where_one_layer_does_not_fit(converted):
    model, _, _, _ = converted
    conversion = adjusted(rescale(model[0]), 2.0)
    other = adjusted(np.ones(3, np.float32), 2.0, "2").layers[0]
    conversion.layers = [conversion.layers[0], other]
    adopted = copy.deepcopy(model)
    with pytest.raises(ValueError, match="'2' has 2 channels, the conversion adjusted 3"):
        adopt(adopted, conversion)
    assert "adopted_rescale" not in adopted[0]._buffers


def test_what_is_no_conversion(converted):
    with pytest.raises(TypeError, match="what convert_qat_model returned, got NoneType"):
        adopt(converted[0], None)
