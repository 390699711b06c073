"""A conversion reads each layer of a model once, whatever it writes."""

import numpy as np
import pytest
import torch
from torch import nn

from bridge import calibrate, prepare_qat, verify
from bridge.export.convert import convert_qat_model
from bridge.export.read import layers
from tests.support.exporters import export

LAYERS = 6


def network() -> nn.Sequential:
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    second = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)]
    return nn.Sequential(
        *first, *second, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    net = prepare_qat(network())
    calibrate(net, [x])
    path = export(net.eval(), x, tmp_path_factory.mktemp("once") / "inter.onnx", "torchscript")
    return net, path, x


@pytest.fixture
def reads(monkeypatch):
    """The names of the layers that were read, in order."""
    found, read = [], layers._read_layer
    monkeypatch.setattr(
        layers, "_read_layer", lambda node, name, fold: found.append(name) or read(node, name, fold)
    )
    return found


OPTIONS = {
    "exact": {},
    "fast": {"mode": "fast"},
    "timed": {"tune": True},
    "qdq": {"target": "qdq"},
    "ascend": {"target": "ascend"},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_layer_is_read_once(exported, reads, tmp_path, case):
    _, path, x = exported
    data = {"data": [np.asarray(x)]} if case == "fast" else {}
    done = convert_qat_model(path, tmp_path / "net", **OPTIONS[case], **data)
    assert len(set(reads)) == len(reads) == LAYERS
    assert sum(layer.op in ("Conv", "Gemm", "MatMul") for layer in done.layers) == LAYERS


def test_a_verification_reads_it_once_more(exported, reads, tmp_path):
    net, path, x = exported
    done = convert_qat_model(path, tmp_path / "net")
    assert verify(net, done, x).exact
    assert len(reads) == 2 * LAYERS
