"""Exports in torch.export's strict mode, within autocast, and of values that are not finite."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bridge import MatMulQAT, adopt, calibrate, convert_qat_model, freeze_weight_scales, prepare_qat
from tests.support.bits import same_bits
from tests.support.exporters import EXPORTERS, export
from tests.support.modules.layers import LEARNED


class Encoder(nn.Module):
    """A grouped transposed convolution, "same" padding, a product, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.same = nn.Linear(8, 8), nn.Conv1d(6, 8, 3, padding="same")
        self.up, self.product = nn.ConvTranspose1d(8, 4, 3, groups=2), MatMulQAT()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.linear(x))
        y = self.product(y, y.transpose(1, 2).relu())
        return self.up(self.same(y))


class Lengths(nn.Module):
    """Reads a number off an input, which torch.export takes in strict mode alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        longest = int(torch.max(lengths).item())
        steps = torch.arange(longest).expand(len(lengths), longest)
        padding = steps >= lengths.unsqueeze(1)
        return self.encoder(x.masked_fill(padding.unsqueeze(-1), 0.0))


def ready(model: nn.Module, *inputs: Tensor, **how: Any) -> nn.Module:
    prepared = prepare_qat(model, how)
    calibrate(prepared, [inputs])
    return prepared.eval()


def constants(path: Any) -> list[tuple[str, bytes]]:
    """The type and bytes of what quantizers in a file read, in the order of its nodes."""
    graph = onnx.load(path).graph
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer} | {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }
    return [
        (f"{node.op_type} {arrays[name].dtype} {node.attribute[0].i}", arrays[name].tobytes())
        for node in graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in node.input[1:]
    ]


def test_what_torch_exports_in_strict_mode_alone(tmp_path):
    x, lengths = torch.randn(2, 6, 8), torch.tensor([6, 4])
    net = ready(Lengths(Encoder()), x, lengths)
    export(net, (x, lengths), tmp_path / "net.onnx", "default")
    done = convert_qat_model(tmp_path / "net.onnx", tmp_path / "net")
    names = [layer.name for layer in done.layers]
    assert names == [f"encoder.{name}" for name in ("linear", "product", "same", "up")]
    export(net.encoder, (x,), tmp_path / "plain.onnx", "default")
    assert constants(tmp_path / "net.onnx") == constants(tmp_path / "plain.onnx")
    feeds = {"x": x.numpy(), "lengths": lengths.numpy()}
    adopt(net, done)
    for path in (done.fake_quant, done.deploy):
        y = onnxruntime.InferenceSession(path).run(None, feeds)[0]
        assert same_bits(torch.from_numpy(y), net(x, lengths))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_export_within_autocast_is_the_same_file(exporter, tmp_path):
    x = torch.randn(2, 6, 8)
    net = ready(Encoder(), x)
    export(net, (x,), tmp_path / "plain.onnx", exporter)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        export(net, (x,), tmp_path / "cast.onnx", exporter)
    assert constants(tmp_path / "cast.onnx") == constants(tmp_path / "plain.onnx")
    nodes = [
        [node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        for name in ("cast", "plain")
    ]
    assert nodes[0] == nodes[1]
    results = [_run(tmp_path / f"{name}.onnx", x) for name in ("cast", "plain")]
    assert np.array_equal(*results)


def _run(path: Any, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def small(**weight: Any) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))
    return ready(model, torch.randn(2, 2, 7, 7), retrain_weight_config=weight)


BROKEN = {
    "upper end": ({}, "acts_clip_max", r"acts_clip_max is {}"),
    "lower end": ({}, "acts_clip_min", r"acts_clip_min is {}"),
    "weight": ({}, "weight", r"the weight is NaN or infinite in 54 elements"),
    "bias": ({}, "bias", r"the bias is NaN or infinite in 2 elements"),
}


@pytest.mark.parametrize(
    ("what", "value"),
    [*((what, "nan") for what in BROKEN), ("weight", "inf"), ("bias", "-inf")],
)
def test_what_is_not_finite_names_its_layer(what, value, tmp_path):
    how, name, message = BROKEN[what]
    net = small(**how)
    with torch.no_grad():
        net[2].get_parameter(name).fill_(float(value))
    wanted = rf"^2 \(Conv2dQAT\): cannot export: {message.format(value)}; a training that diverged"
    with pytest.raises(ValueError, match=wanted):
        export(net, (torch.randn(1, 2, 7, 7),), tmp_path / "net.onnx", "torchscript")
    assert not list(tmp_path.iterdir())


def test_held_scales_that_are_not_positive_name_their_layer(tmp_path):
    net = small(**LEARNED)
    freeze_weight_scales(net)
    net[2].frozen_wts_scales.fill_(0.0)
    wanted = (
        r"^2 \(Conv2dQAT\): .*the weight's scale is NaN, infinite or not positive in 2 elements"
    )
    with pytest.raises(ValueError, match=wanted):
        export(net, (torch.randn(1, 2, 7, 7),), tmp_path / "net.onnx", "torchscript")


def test_a_range_without_a_valid_one_before_names_its_layer(tmp_path):
    net = small()
    with torch.no_grad():
        net[2].acts_clip_max.fill_(-2.0)
        net[2].acts_clip_max_pre.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^2 \(Conv2dQAT\): cannot export: "):
        export(net, (torch.randn(1, 2, 7, 7),), tmp_path / "net.onnx", "torchscript")


def test_the_default_exporter_names_the_layer_too(tmp_path):
    net = small()
    with torch.no_grad():
        net[2].acts_clip_max.fill_(float("nan"))
    with pytest.raises(Exception, match=r"2 \(Conv2dQAT\): cannot export: acts_clip_max"):
        export(net, (torch.randn(1, 2, 7, 7),), tmp_path / "net.onnx", "default")


def test_a_product_whose_range_is_not_finite(tmp_path):
    net, x = Encoder(), torch.randn(2, 6, 8)
    net = ready(net, x)
    with torch.no_grad():
        net.product.other_clip_min.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^product \(MatMulQAT\): .*other_clip_min"):
        export(net, (x,), tmp_path / "net.onnx", "torchscript")


def test_a_bias_that_was_taken_away_is_not_looked_at(tmp_path):
    net = small()
    with torch.no_grad():
        net[2].bias.fill_(float("nan"))
    net[2].bias = None
    export(net, (torch.randn(1, 2, 7, 7),), tmp_path / "net.onnx", "torchscript")
