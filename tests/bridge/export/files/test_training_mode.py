"""Exports in training mode and models that draw random numbers are refused; names the node."""

import numpy as np
import pytest
import torch
from torch import nn

from bridge import ConversionError, calibrate, convert_qat_model, prepare_qat, verify
from tests.support.exporters import export
from tests.support.graphs.text import MATMUL, model, save

DROPOUT = MATMUL.replace("y =", "m =") + "[drop] y = Dropout (m, r, t)"
NORM = MATMUL.replace("y =", "m =") + "[norm] y{} = BatchNormalization{} (m, n, n, n, n)"
NUMBERS = {"r": np.float32(0.5), "n": np.ones(2, np.float32)}


def refused(proto, folder):
    with pytest.raises(ConversionError) as error:
        convert_qat_model(save(proto, folder), folder / "net")
    assert [path.name for path in folder.iterdir()] == ["inter.onnx"]
    return str(error.value)


def test_a_dropout_that_drops(tmp_path):
    message = refused(model(DROPOUT, t=np.bool_(True), **NUMBERS), tmp_path)
    assert "inter.onnx: Dropout 'drop' drops values" in message
    assert "net.eval()" in message


def test_a_dropout_that_may_drop(tmp_path):
    proto = model(DROPOUT, inputs="float[N, 3] x, bool t", **NUMBERS)
    assert "Dropout 'drop' may drop values" in refused(proto, tmp_path)


@pytest.mark.parametrize("inputs", ["float[N, 3] x", "float[N, 3] x, bool t"])
def test_a_dropout_that_does_nothing(tmp_path, inputs):
    proto = model(DROPOUT, inputs=inputs, t=np.bool_(False), **NUMBERS)
    convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    proto = model(DROPOUT.replace(", r, t", ""))
    convert_qat_model(save(proto, tmp_path), tmp_path / "net")


@pytest.mark.parametrize("outputs", ["", ", mean, var"])
def test_a_batch_norm_that_trains(tmp_path, outputs):
    proto = model(NORM.format(outputs, "<training_mode = 1>"), **NUMBERS)
    assert "BatchNormalization 'norm' uses the statistics of the batch" in refused(proto, tmp_path)


def test_a_dropout_inside_a_branch(tmp_path):
    body = (
        MATMUL.replace("y =", "m =") + "y = If (c) <then_branch = t() => (float[A, B] u)"
        " { [drop] u = Dropout (m, r, t) }, else_branch = f() => (float[A, B] v) { v = Neg (m) }>"
    )
    proto = model(body, inputs="float[N, 3] x, bool c", t=np.bool_(True), **NUMBERS)
    assert "Dropout 'drop' drops values" in refused(proto, tmp_path)


@pytest.mark.parametrize(
    "node", ["Bernoulli (m)", "RandomNormalLike (m)", "RandomUniformLike (m)", "Multinomial (m)"]
)
def test_random_numbers(tmp_path, node):
    body = MATMUL.replace("y =", "m =") + f"[noise] y = {node}"
    if "Multinomial" in node:
        body = body.replace("y =", "i =") + "y = Cast <to = 1> (i)"
    message = refused(model(body), tmp_path)
    assert f"{node.split()[0]} 'noise' draws random numbers" in message


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1, 1)).bernoulli_(0.8)


class Branches(nn.Sequential):
    def __init__(self, inner):
        super().__init__(nn.Conv1d(3, 4, 1), nn.Sequential(inner), nn.Conv1d(4, 2, 1))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the exporters, about training mode
@pytest.mark.parametrize(
    ("inner", "exporter"),
    [
        (nn.Dropout(0.5), "default"),
        (nn.Dropout(0.5), "torchscript"),
        (DropPath(), "torchscript"),
    ],
)
def test_layers_are_named(tmp_path, exporter, inner):
    net, x = prepare_qat(Branches(inner)), torch.randn(2, 3, 5)
    calibrate(net, [x])
    training = {} if exporter == "default" else {"training": torch.onnx.TrainingMode.PRESERVE}
    inter = export(net.train(), (x,), tmp_path / "m.onnx", exporter, **training)
    with pytest.raises(ConversionError, match=r"of layer '1.0' "):
        convert_qat_model(inter, tmp_path / "net")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_a_batch_norm_without_running_statistics(tmp_path):
    """torch exports it in training form in eval mode too."""
    net, x = (
        prepare_qat(Branches(nn.BatchNorm1d(4, track_running_stats=False))),
        torch.randn(2, 3, 5),
    )
    calibrate(net, [x])
    inter = export(net.eval(), (x,), tmp_path / "m.onnx", "torchscript")
    done = convert_qat_model(inter, tmp_path / "net")
    seen = verify(net, inter, done.fake_quant, done.deploy, x)
    assert all(output.fake_deploy.count == 0 for output in seen.outputs)
