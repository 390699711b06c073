"""The inter model: what torch.onnx.export writes for QAT layers, with either exporter."""

import copy

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from bridge import ConvTranspose2dQAT, LinearQAT, calibrate, convert_qat_model
from bridge.export.graph.constants import constant
from bridge.export.running.runtime import run_model
from bridge.modules.weighted import qat_layers
from qatfunc import arq_qparams, resolve_clip, ulq_qparams
from qatfunc.linear_maps.channels import per_output, to_full_rank
from qatfunc.params import Clip
from tests.support.bits import same_state
from tests.support.exporters import EXPORTERS, dynamic, export
from tests.support.graphs.reading import nodes, read
from tests.support.modules.layers import config, state
from tests.support.modules.nested import Nested, nested
from tests.support.source import ROOT

both = pytest.mark.parametrize("exporter", EXPORTERS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The nested model exported once each way: by the bare call, and with a free batch."""
    model, x = nested()
    before = state(model)
    folder = tmp_path_factory.mktemp("inter")
    paths = {
        (exporter, kind): export(model, x, folder / f"{exporter}-{kind}.onnx", exporter, **more)
        for exporter in EXPORTERS
        for kind, more in (("bare", {}), ("dynamic", dynamic(exporter)))
    }
    assert same_state(state(model), before), "exporting changes nothing"
    return model, x, paths


def expected_weight_scale(layer):
    layout = {"transposed": layer.operator.transposed, "groups": getattr(layer, "groups", 1)}
    if layer.config.learned_scale and layer.cur_batch:
        stored = layer.wts_scales.detach()
        return (1.0 / stored if layer.config.reciprocal_scale else stored), layout
    qparams = arq_qparams(layer.weight, layer.config.layer.weight, **layout)
    return per_output(qparams.scale, **layout), layout


def assert_holds(read_layer, layer):
    """What was read has the layer's scales, zero points and integers, bit for bit."""
    scale_w, layout = expected_weight_scale(layer)
    assert read_layer.scale_w.tobytes() == scale_w.numpy().tobytes()
    grid = layer.config.layer.activation
    own = Clip(layer.acts_clip_max.detach(), layer.acts_clip_min.detach())
    previous = Clip(layer.acts_clip_max_pre, layer.acts_clip_min_pre)
    activation = ulq_qparams(resolve_clip(own, previous, grid), grid)
    assert read_layer.scale_x.tobytes() == activation.scale.numpy().tobytes()
    assert int(read_layer.zero_point_x) == int(activation.zero_point)
    scale = to_full_rank(scale_w, layer.weight, **layout)
    codes = torch.clamp(torch.round(layer.weight.detach() / scale), -128, 127).to(torch.int8)
    codes = codes.T if layer.operator.name == "linear" else codes
    assert np.array_equal(read_layer.weight, codes.numpy())
    bias = torch.round(layer.bias.detach() / (activation.scale * scale_w))
    assert np.array_equal(read_layer.bias, bias.numpy().astype(np.int32))


@pytest.mark.parametrize("kind", ["bare", "dynamic"])
@both
def test_only_standard_operators_with_two_pairs_a_layer(files, exporter, kind):
    graph = onnx.load(files[2][exporter, kind]).graph
    onnx.checker.check_model(onnx.load(files[2][exporter, kind]), full_check=True)
    assert {node.domain for node in graph.node} == {""}
    count = {op: sum(node.op_type == op for node in graph.node) for op in ("Conv", "Gemm")}
    assert count == {"Conv": 2, "Gemm": 1}
    for op in ("QuantizeLinear", "DequantizeLinear"):
        assert sum(node.op_type == op for node in graph.node) == 2 * len(Nested.NAMES)


@pytest.mark.parametrize("kind", ["bare", "dynamic"])
@both
def test_scales_are_constants_of_the_weights_as_they_are(files, exporter, kind):
    model, _, paths = files
    found = read(paths[exporter, kind])
    assert [layer.name for layer in found] == [name for name, _ in qat_layers(model)]
    for read_layer, (_, layer) in zip(found, qat_layers(model), strict=True):
        assert_holds(read_layer, layer)
    graph = ir.load(paths[exporter, kind]).graph
    for op in ("QuantizeLinear", "DequantizeLinear"):
        for node in nodes(graph, op):
            assert constant(node.inputs[1]).dtype == np.float32
            assert constant(node.inputs[2]).dtype == np.int8


@both
def test_weights_are_float_initializers(files, exporter):
    model, _, paths = files
    stored = {
        value.name: onnx.numpy_helper.to_array(value)
        for value in onnx.load(paths[exporter, "bare"]).graph.initializer
    }
    for name in ("stem.0.weight", "stem.0.bias", "volume.weight", "head.1.0.weight"):
        assert stored[name].tobytes() == model.get_parameter(name).detach().numpy().tobytes()
    # One scale a (group, channel) pair has no axis in (in, out/groups, ...): laid out in rows.
    up = model.get_parameter("blocks.0.up.weight").detach().numpy()
    assert any(sorted(a.ravel()) == sorted(up.ravel()) for a in stored.values())


@both
def test_the_batch_is_free_only_where_asked(files, exporter):
    _, _, paths = files
    bare, free = (onnx.load(paths[exporter, kind]).graph for kind in ("bare", "dynamic"))
    first = [graph.input[0].type.tensor_type.shape.dim[0] for graph in (bare, free)]
    assert first[0].dim_value == 3
    assert first[1].dim_param
    for batch in (1, 5):
        x = np.zeros((batch, 1, 5, 5), np.float32)
        (y,) = run_model(paths[exporter, "dynamic"], [x]).values()
        assert y.shape == (batch, 3)


@both
def test_the_inter_model_computes_about_what_the_model_computes(files, exporter):
    # About: it dequantizes first and sums floats; the converted models are exact.
    model, x, paths = files
    (y,) = run_model(paths[exporter, "bare"], [x.numpy()]).values()
    np.testing.assert_allclose(y, model(x).detach().numpy(), rtol=0.02, atol=0.02)


def trained(layer):
    """Calibrate a layer, then let one step of training move all it has."""
    layer(torch.randn(4, 3))
    layer(torch.randn(4, 3)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1e-4).step()
    return layer


def linear(data=None, weight=None):
    return LinearQAT(3, 3, config=config(data, weight))


def loaded(data=None, weight=None, *, assign=False):
    layer = linear(data, weight)
    layer.load_state_dict(state(trained(linear(data, weight))), assign=assign)
    return layer


def replaced():
    layer = copy.deepcopy(trained(linear()))
    layer.weight = nn.Parameter(torch.randn(3, 3))
    layer.acts_clip_max.data = torch.tensor(7.0)
    return layer


def parametrization_removed():
    layer = parametrizations.weight_norm(linear())
    layer(torch.randn(4, 3))
    layer.parametrizations.weight.original0.data.mul_(1.7)
    return nn.utils.parametrize.remove_parametrizations(layer, "weight")


def crossed():
    layer = trained(linear({"clip_max": 3.0, "clip_min": -0.5}))
    layer.acts_clip_max.data.fill_(-9.0)
    return layer


def moved():
    """Conversion replaces the buffers that hold the last valid range."""
    layer = linear({"clip_max": 3.0, "clip_min": -0.5}).double().float()
    layer.acts_clip_max.data.fill_(2.0)
    layer(torch.randn(4, 3))
    layer.acts_clip_max.data.fill_(-9.0)
    return layer


class Histories(nn.Module):
    """Layers with different histories, none of them run since."""

    def __init__(self):
        super().__init__()
        learned = {"weights_retrain_algo": "ulq_retrain"}
        self.layers = nn.ModuleDict(
            {
                "stepped": trained(linear()),
                "stepped_scale": trained(linear(None, learned)),
                "reciprocal": trained(linear(None, learned | {"s_rec_flag": True})),
                "loaded": loaded(),
                "loaded_scale": loaded(None, learned),
                "assigned": loaded(None, learned, assign=True),
                "given": linear({"clip_max": 1.0}, learned),
                "given_trained": trained(linear({"clip_max": 1.0}, learned)),
                "replaced": replaced(),
                "parametrization_removed": parametrization_removed(),
                "crossed": crossed(),
                "moved": moved(),
                "wide": trained(linear({"dst_type": "INT16"})),
                "off": LinearQAT(3, 3, config={"retrain_enable": False}),
                "last": trained(linear()),
            }
        )
        self.layers["tied"] = trained(linear())
        self.layers["tied"].weight = self.layers["last"].weight

    def forward(self, x):
        results = [layer(x) for layer in self.layers.values()]
        return torch.stack([*results, self.layers["last"](results[0])]).sum(0)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    torch.manual_seed(5)
    model, folder = Histories().eval(), tmp_path_factory.mktemp("histories")
    x = torch.randn(2, 3)
    return model, {name: export(model, x, folder / f"{name}.onnx", name) for name in EXPORTERS}


@both
def test_every_history_ends_in_the_scales_of_the_weights_as_they_are(histories, exporter):
    model, paths = histories
    found = {layer.name: layer for layer in read(paths[exporter])}
    expected = dict(qat_layers(model)) | {"layers.last#2": model.layers["last"]}  # called twice
    assert "layers.off" not in expected
    assert set(found) == set(expected)
    for name, layer in expected.items():
        assert_holds(found[name], layer)


@both
def test_ranges_and_trained_scales_by_hand(histories, exporter):
    model, paths = histories
    found = {layer.name.removeprefix("layers."): layer for layer in read(paths[exporter])}
    assert found["crossed"].scale_x == np.float32(3.5) / np.float32(255)
    assert found["moved"].scale_x == np.float32(2.5) / np.float32(255)
    assert found["given"].scale_x == np.float32(2) / np.float32(255)
    assert found["wide"].zero_point_x.dtype == np.int16
    reciprocal = model.layers["reciprocal"].wts_scales.detach().numpy()
    assert found["reciprocal"].scale_w.tolist() == (np.float32(1) / reciprocal).tolist()
    # A given range leaves the trained scales where they start, at ARQ's, until training begins.
    largest = model.layers["given"].weight.abs().max().item()
    assert found["given"].scale_w[0] * 127 == pytest.approx(largest, rel=1 / 127)
    assert (model.layers["given"].wts_scales == 1.0).all()


UNCALIBRATED = (
    r"cannot export: not calibrated: first\.0, last\. Train for batch_num batches or call"
)


@both
def test_an_uncalibrated_model_is_refused_with_all_its_layers(tmp_path, exporter):
    model = nn.Sequential()
    model.add_module("first", nn.Sequential(LinearQAT(3, 3)))
    model.add_module("known", LinearQAT(3, 3, config=config({"clip_max": 1.0})))
    model.add_module("off", LinearQAT(3, 3, config={"retrain_enable": False}))
    model.add_module("last", LinearQAT(3, 3))
    x = torch.randn(2, 3)
    with pytest.raises(RuntimeError, match=UNCALIBRATED):
        export(model.eval(), x, tmp_path / "m.onnx", exporter)
    assert not list(tmp_path.iterdir())

    calibrate(model, [x])
    path = export(model, x, tmp_path / "m.onnx", exporter)
    assert [layer.name for layer in read(path)] == ["first.0", "known", "last"]


@both
def test_a_parametrized_weight_is_refused(tmp_path, exporter):
    model, x = nn.Sequential(parametrizations.weight_norm(LinearQAT(3, 2))), torch.randn(2, 3)
    calibrate(model, [x])
    with pytest.raises(RuntimeError, match=r"0 \(\w+\): the weight is parametrized; remove"):
        export(model.eval(), x, tmp_path / "m.onnx", exporter)
    assert not list(tmp_path.iterdir())


class RefusesTheFirstTry(nn.Module):
    """Sends the default exporter on to its second try, torch.export's strict mode."""

    def __init__(self, calibrated):
        super().__init__()
        self.fc = LinearQAT(3, 2, config=config({"clip_max": 1.0}) if calibrated else None)

    def forward(self, x):
        if not torch.compiler.is_dynamo_compiling():
            raise NotImplementedError("only in strict mode")
        return self.fc(x)


def test_strict_mode_writes_the_pairs(tmp_path):
    model = RefusesTheFirstTry(calibrated=True).eval()
    path = export(model, torch.randn(2, 3), tmp_path / "m.onnx", "default")
    assert [layer.name for layer in read(path)] == ["fc"]


def test_strict_mode_never_writes_a_file_without_its_pairs(tmp_path):
    model = RefusesTheFirstTry(calibrated=False).eval()
    with pytest.raises(RuntimeError, match="only in strict mode"):
        export(model, torch.randn(2, 3), tmp_path / "m.onnx", "default")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_compiled_is_not_taken_for_an_export():
    model, x = nn.Sequential(ConvTranspose2dQAT(2, 3, 3)), torch.randn(2, 2, 4, 4)
    model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for training in (True, False):
        model.train(training)
        assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_no_path_of_the_sources_is_in_the_converted_files(files, tmp_path, target):
    _, _, paths = files
    inter = paths["default", "bare"]
    here = str(ROOT).encode()
    assert here in inter.read_bytes(), "or nothing is tested"
    done = convert_qat_model(inter, tmp_path / "net", target=target)
    for path in (done.fake_quant, done.deploy):
        assert here not in path.read_bytes()
