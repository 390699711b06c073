"""Shared layers and tied weights: one weight in torch stays one weight in every file."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from bridge import (
    Conv2dQAT,
    ConversionError,
    LinearQAT,
    calibrate,
    convert_qat_model,
    float_model,
    prepare_qat,
    verify,
)
from tests.support.exporters import EXPORTERS, export
from tests.support.modules.layers import KINDS, LEARNED, NAMES, config, state


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.fc(x)))


class Tied(nn.Module):
    """Two layers on one Parameter, biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Unrolled(nn.Module):
    """One layer and its twin, which share all but the range."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LinearQAT(4, 4, config=config(None, LEARNED))
        self.second = self.first.share()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def twice():
    return prepare_qat(Twice()), torch.randn(3, 4)


def tied():
    return prepare_qat(Tied()), torch.randn(2, 4, 5, 5)


def unrolled():
    return Unrolled(), torch.randn(3, 4)


MODELS = {
    "called twice": (twice, "fc", "fc"),
    "one parameter": (tied, "first", "second"),
    "share": (unrolled, "first", "second"),
}


def weights(path, shape):
    """The initializers of a file that may be the weight."""
    arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    return [a for a in arrays if a.ndim > 1 and sorted(a.shape) == sorted(shape)]


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request, tmp_path_factory):
    """Every model, after a step of training: (model, input, inter model) by name."""
    torch.manual_seed(2)
    folder, made = tmp_path_factory.mktemp(request.param), {}
    for i, (name, (make, *_)) in enumerate(MODELS.items()):
        model, x = make()
        calibrate(model, [x])
        model.train()
        model(x).square().mean().backward()
        torch.optim.SGD(model.parameters(), lr=0.01).step()
        path = export(model.eval(), (x,), folder / f"{i}.onnx", request.param)
        made[name] = model, x, path
    return made


@pytest.mark.parametrize("name", MODELS)
def test_fake_quant_and_deploy_hold_one_initializer_and_are_exact(exported, name, tmp_path):
    model, x, path = exported[name]
    conversion = convert_qat_model(path, tmp_path / "out")
    assert len(conversion.layers) == 2
    shape = next(model.children()).weight.shape
    for converted in (conversion.fake_quant, conversion.deploy):
        assert len(weights(converted, shape)) == 1, converted.name
    assert verify(model, path, conversion.fake_quant, conversion.deploy, x).exact


def test_different_weights_are_different_initializers(tmp_path):
    model, x = tied()
    model = copy.deepcopy(model)
    model.second.weight = nn.Parameter(model.second.weight.detach() * 0.7 + 0.01)
    calibrate(model, [x])
    path = export(model.eval(), (x,), tmp_path / "inter.onnx", "torchscript")
    conversion = convert_qat_model(path, tmp_path / "out")
    found = weights(conversion.deploy, model.first.weight.shape)
    assert len(found) == 2
    assert not np.array_equal(*found)


@pytest.mark.parametrize("name", MODELS)
def test_ascend_refuses_and_names_both(exported, name, tmp_path):
    _, _, path = exported[name]
    _, first, second = MODELS[name]
    names = f"'{first}' and '{second if second != first else f'{first}#2'}'"
    message = f"^layers {names} share a weight, which target 'ascend' does not allow; "
    with pytest.raises(ConversionError, match=message):
        convert_qat_model(path, tmp_path / "out", target="ascend")
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_a_layer_called_twice_calibrates_on_both_calls():
    model = prepare_qat(Twice(), config({"batch_num": 4}))
    with pytest.raises(ValueError, match=r"fc \(2 of 4\)"):
        calibrate(model, [torch.randn(3, 4)])
    calibrate(model, [torch.randn(3, 4)])
    assert model.fc.calibrated


def test_a_shared_layer_is_replaced_once_and_comes_back_shared():
    fc = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": fc, "inner": nn.Sequential(fc, nn.Linear(2, 2))})
    prepared = prepare_qat(model)
    assert prepared["a"] is prepared["inner"][0]
    assert type(prepared["a"]) is LinearQAT
    back = float_model(prepared)
    assert back["a"] is back["inner"][0]
    assert back["a"] is not back["inner"][1]


def test_tied_parameters_stay_tied():
    prepared = prepare_qat(Tied())
    assert prepared.first.weight is prepared.second.weight
    assert prepared.first.bias is not prepared.second.bias
    back = float_model(prepared)
    assert back.first.weight is back.second.weight
    assert list(back.state_dict()) == list(Tied().state_dict())


@pytest.mark.parametrize("weight", [None, LEARNED], ids=["arq", "lsq"])
@pytest.mark.parametrize("name", NAMES)
def test_share_is_a_layer_with_a_range_of_its_own(name, weight):
    kind = KINDS[name]
    layer, x = kind.layer(None, weight), kind.batch()
    layer(x)
    twin = layer.share()
    assert type(twin) is type(layer)
    assert twin.weight is layer.weight
    assert twin.bias is layer.bias
    assert twin.config == layer.config
    assert not twin.calibrated
    assert twin.acts_clip_max is not layer.acts_clip_max
    if weight is not None:
        assert twin.wts_scales is layer.wts_scales
    before = state(layer)
    twin(4.0 * x)
    assert twin.acts_clip_max > 3.0 * layer.acts_clip_max
    assert all(torch.equal(value, before[key]) for key, value in state(layer).items())
    assert [name for name, _ in layer.named_parameters()] == [
        name for name, _ in twin.named_parameters()
    ]
    with torch.no_grad():
        twin.acts_clip_max.copy_(layer.acts_clip_max)
        twin.acts_clip_min.copy_(layer.acts_clip_min)
    assert torch.equal(twin.eval()(x), layer.eval()(x)), "one geometry, one weight, one range"


def test_share_keeps_the_mode():
    assert not Conv2dQAT(1, 1, 1).eval().share().training
    assert Conv2dQAT(1, 1, 1, bias=False).share().bias is None


def test_twins_add_up_their_gradients():
    model, x = unrolled()
    calibrate(model, [x])
    model.train()
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(trained) == 3 + 4, "weight, bias, scale, four clips"
    model(x).square().sum().backward()
    together = model.first.weight.grad.clone()
    alone = copy.deepcopy(model)
    alone.second.weight = nn.Parameter(alone.first.weight.detach().clone())
    alone.zero_grad()
    alone(x).square().sum().backward()
    torch.testing.assert_close(together, alone.first.weight.grad + alone.second.weight.grad)
    assert alone.first.weight.grad.any()
    assert alone.second.weight.grad.any()
