"""verify: it counts nothing where all paths agree, and finds the place where they part."""

from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT, calibrate, convert_qat_model, verify
from bridge.export.result.verify.differences import Difference
from tests.support.bits import same_state
from tests.support.exporters import dynamic, export
from tests.support.graphs.text import with_inputs
from tests.support.modules.layers import config, state

RANGE = {"range_search": "ifmr"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        per_tensor = config(RANGE, {"channel_wise": False})
        # Behind a ReLU the convolution would be one operator with the quantizer of head.1.
        self.features = nn.Sequential(Conv2dQAT(1, 3, 3, config=per_tensor), nn.LeakyReLU(0.1))
        # Outputs are few steps of the accumulator, so that float32 resolves a thousandth of one.
        layers = [LinearQAT(*sizes, config=config(RANGE)) for sizes in ((27, 4), (4, 2))]
        self.head = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1])

    def forward(self, x):
        return self.head(self.features(x))


NAMES = ["features.0", "head.1", "head.3"]


class Paths(NamedTuple):
    inter: object
    fake: object
    deploy: object


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(2)
    model, x = Net(), torch.randn(6, 1, 5, 5)
    calibrate(model, [x])
    folder = tmp_path_factory.mktemp("verify")
    inter = export(model.eval(), x[:1], folder / "m.onnx", "torchscript", **dynamic("torchscript"))
    return model, x, inter


@pytest.fixture
def made(exported, tmp_path):
    """A copy of the model's state that a test may spoil, its batch, and the converted files."""
    model, x, inter = exported
    before = state(model)
    done = convert_qat_model(inter, tmp_path / "net")
    yield model, x, Paths(inter, done.fake_quant, done.deploy)
    model.load_state_dict(before)
    model.eval()


def edit(path, name, change):
    """Change an initializer of a file, found by a part of its name and its element type."""
    proto = onnx.load(path)
    (tensor,) = (t for t in proto.graph.initializer if name(t))
    array = onnx.numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)


def weight_of(layer):
    return lambda t: t.name.startswith(f"{layer}/") and t.data_type == onnx.TensorProto.INT8


def bias_of(layer):
    int32 = onnx.TensorProto.INT32
    return lambda t: t.name.startswith(f"{layer}/") and t.data_type == int32 and t.dims


def counts(check):
    fields = ("codes_torch_fake", "codes_fake_deploy", "output_torch_fake", "output_fake_deploy")
    return [getattr(check, field).count for field in fields]


@pytest.mark.parametrize("target", ["ort", "ascend"])
def test_an_exact_model(exported, tmp_path, target):
    model, x, inter = exported
    done = convert_qat_model(inter, tmp_path / "net", target=target)
    seen = verify(model, inter, done.fake_quant, done.deploy, x)
    assert seen.exact
    assert seen.first_fake_deploy is None
    assert [check.name for check in seen.layers] == NAMES
    assert [check.op for check in seen.layers] == ["Conv", "Gemm", "Gemm"]
    for check, layer in zip(seen.layers, done.layers, strict=True):
        assert counts(check) == [0, 0, 0, 0]
        assert check.proven
        assert check.bound == layer.bound
        assert 0 < check.measured <= check.bound
    assert [check.codes_torch_fake.total for check in seen.layers] == [150, 162, 24]
    assert [check.output_torch_fake.total for check in seen.layers] == [162, 24, 12]
    (output,) = seen.outputs
    assert output.fake_deploy == Difference(0, 12, 0.0)
    assert output.torch_fake == Difference(0, 12, 0.0)
    assert seen.first_torch_fake is None


def test_the_largest_accumulator_is_measured(made):
    model, x, paths = made
    check = verify(model, *paths, x).layers[2]
    y = model(x).detach()
    layer = model.head[3]
    step = (layer.acts_clip_max - layer.acts_clip_min).detach() / 255
    accumulators = y / (step * layer._arq_scale())
    assert check.measured == int(accumulators.abs().max().round())


@pytest.mark.parametrize(("layer", "value"), [("features.0", "features"), ("head.1", "head")])
def test_one_changed_weight_in_deploy_is_found(made, layer, value):
    model, x, paths = made
    assert verify(model, *paths, x).exact

    def change(weight):
        weight.reshape(-1)[0] = -100 if weight.reshape(-1)[0] > 0 else 100

    edit(paths.deploy, weight_of(layer), change)
    seen = verify(model, *paths, x)
    assert not seen.exact
    assert seen.first_torch_fake is None
    named = {check.name: check for check in seen.layers}
    inter = onnx.load(paths.inter).graph
    (node,) = (n for n in inter.node if n.op_type in ("Conv", "Gemm") and layer in n.name)
    assert seen.first_fake_deploy == node.output[0]
    for name in NAMES[: NAMES.index(layer)]:
        assert counts(named[name]) == [0, 0, 0, 0]
    here = named[layer]
    assert here.codes_fake_deploy.count == here.codes_torch_fake.count == 0
    assert here.output_torch_fake.count == 0
    assert here.output_fake_deploy.count > 0
    behind = named[NAMES[NAMES.index(layer) + 1]]
    assert behind.codes_fake_deploy.count > 0
    assert behind.codes_fake_deploy.largest >= 1
    assert seen.outputs[0].fake_deploy.count > 0


def test_differences_are_counted_in_steps_of_the_accumulator(made):
    model, x, paths = made

    def change(bias):
        bias[1] += 3

    edit(paths.deploy, bias_of("head.3"), change)
    seen = verify(model, *paths, x)
    difference = seen.layers[2].output_fake_deploy
    assert (difference.count, difference.total) == (6, 12)
    assert difference.largest == pytest.approx(3.0, abs=1e-3)
    output = seen.outputs[0].fake_deploy
    assert output.count == 6
    assert 0 < output.largest < difference.largest


def test_a_changed_fake_quant_model_is_found_by_both_comparisons(made):
    model, x, paths = made

    def change(bias):
        bias[0] += 1

    edit(paths.fake, bias_of("features.0"), change)
    seen = verify(model, *paths, x)
    assert seen.first_torch_fake == "features.0"
    assert seen.first_fake_deploy is not None
    assert seen.layers[0].output_torch_fake.count == seen.layers[0].output_fake_deploy.count == 54


@pytest.mark.parametrize("layer", NAMES)
def test_a_model_changed_after_the_export_is_found(made, layer):
    model, x, paths = made
    with torch.no_grad():
        # Not the largest weight, whose change the scale would follow.
        model.get_submodule(layer).weight.flatten()[1] *= -0.5
    seen = verify(model, *paths, x)
    assert not seen.exact
    assert seen.first_fake_deploy is None
    assert seen.first_torch_fake == layer
    named = {check.name: check for check in seen.layers}
    assert named[layer].codes_torch_fake.count == 0
    assert named[layer].output_torch_fake.count > 0
    assert all(check.output_fake_deploy.count == 0 for check in seen.layers)


def test_a_changed_range_is_found(made):
    model, x, paths = made
    model.head[1].acts_clip_max.data.mul_(1.1)
    seen = verify(model, *paths, x)
    assert seen.first_torch_fake == "head.1"


def test_the_model_is_left_as_it_was(made):
    model, x, paths = made
    model.train()
    model.features.eval()
    before = state(model)
    verify(model, *paths, x)
    assert same_state(state(model), before)
    assert model.training
    assert not model.features.training
    assert model.head[3].training
    assert not any(module._forward_hooks for module in model.modules())


def test_data_may_be_a_tuple_or_a_list(made):
    model, x, paths = made
    assert verify(model, *paths, (x,)).exact
    assert verify(model, *paths, [x]).exact


def test_data_that_does_not_fit(made):
    model, x, paths = made
    with pytest.raises(ValueError, match=r"takes 1 inputs .*, got 2"):
        verify(model, *paths, (x, x))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_file(made, tmp_path, which):
    model, x, paths = made
    absent = [tmp_path / "absent.onnx" if i == which else path for i, path in enumerate(paths)]
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        verify(model, *absent, x)


def test_a_model_with_other_outputs(made):
    model, x, paths = made

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x), x

    with pytest.raises(ValueError, match="the model has 2 outputs, fake-quant has 1"):
        verify(Two(), *paths, x)

    class Wide(Two):
        def forward(self, x):
            return torch.cat([self.net(x)] * 2)

    with pytest.raises(ValueError, match=r"output '.*' has shape \(12, 2\) in torch, \(6, 2\) in"):
        verify(Wide(), *paths, x)


class Twice(nn.Module):
    """Two inputs, a dict of outputs, and modules that are called twice."""

    def __init__(self):
        super().__init__()
        self.fc = LinearQAT(3, 3, config=config({"clip_max": 1.0}))
        self.last = LinearQAT(3, 3, config=config({"clip_max": 1.0}))
        self.act = nn.Sequential(nn.ReLU(), nn.LeakyReLU())

    def forward(self, a, b):
        return {"a": self.act(self.fc(self.act(self.fc(a)))), "b": self.last(b)}


def test_inputs_outputs_and_calls_of_any_number(tmp_path):
    model, data = Twice().eval(), (torch.randn(2, 3), torch.randn(4, 3))
    inter = export(model, data, tmp_path / "m.onnx", "torchscript")
    done = convert_qat_model(inter, tmp_path / "net")
    seen = verify(model, inter, done.fake_quant, done.deploy, data)
    assert seen.exact
    assert seen.first_torch_fake is None
    assert [output.torch_fake.total for output in seen.outputs] == [6, 12]
    named = {check.name: check for check in seen.layers}
    assert set(named) == {"fc", "fc#2", "last"}
    for check in seen.layers:
        assert counts(check) == [0, 0, 0, 0]


def test_a_bound_beyond_float32_is_not_proven_but_measured(tmp_path):
    model = nn.Sequential(LinearQAT(2000, 2, config=config({"clip_max": 1.0}))).eval()
    x = torch.rand(2, 2000) / 2
    model[0].weight.data.fill_(0.5)
    inter = export(model, x, tmp_path / "m.onnx", "torchscript")
    done = convert_qat_model(inter, tmp_path / "net")
    (check,) = verify(model, inter, done.fake_quant, done.deploy, x).layers
    assert not check.proven
    assert check.bound > 2**24 > check.measured > 0
    assert counts(check) == [0, 0, 0, 0]
    assert np.isclose(check.measured, float(x.sum(1).max()) * 127 * 127.5, rtol=0.01)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_initializers_that_are_inputs_too(tmp_path, ir_version):
    # Before IR version 4 all of them were; later they are defaults, which stay in float.
    model = nn.Sequential(LinearQAT(5, 4), nn.PReLU(4), LinearQAT(4, 2))
    x = torch.randn(6, 5)
    calibrate(model, [x])
    inter = export(model.eval(), x, tmp_path / "m.onnx", "torchscript")
    proto = onnx.load(inter)
    names = [t.name for t in proto.graph.initializer if ir_version == 3 or t.name == "1.weight"]
    assert names
    onnx.save(with_inputs(proto, *names, ir_version=ir_version), inter)
    done = convert_qat_model(inter, tmp_path / "net")
    seen = verify(model, inter, done.fake_quant, done.deploy, x)
    assert [layer.name for layer in seen.layers] == ["0", "2"]
    assert seen.exact
