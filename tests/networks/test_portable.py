"""ResNet-18 in the portable QDQ form: OpenVINO runs it in 8 bits, ONNX Runtime loads it."""

import numpy as np
import pytest

from benchmarks import portable_qdq as benchmark

SIDE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A narrow ResNet-18 for targets "qdq" and "ort"."""
    return benchmark.convert(tmp_path_factory.mktemp("resnet18"), width=16, side=SIDE)


def data(count=8):
    return np.random.default_rng(0).normal(size=(count, 1, 3, SIDE, SIDE)).astype(np.float32)


def relative(y, expected):
    return np.linalg.norm(y - expected) / np.linalg.norm(expected)


def test_openvino_runs_every_layer_in_8_bits(models):
    openvino = pytest.importorskip("openvino", reason=benchmark.ABSENT)
    compiled = openvino.Core().compile_model(str(models[0]), "CPU")
    found = benchmark.layer_precisions(compiled)
    assert found == {("Convolution", "8 bits"): 20, ("FullyConnected", "8 bits"): 1}
    y = benchmark.outputs(lambda x: next(iter(compiled(x).values())), data())
    assert y.shape == (8, 10)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("settings", [{"optimize": False}, {"precise": True}], ids=str)
def test_onnx_runtime_agrees_but_for_codes_next_to_ties(models, settings):
    # No code moves here: 1.2e-7 and 0 were seen. One that lies next to a tie may, on another
    # processor, and the layers behind it carry it on; saturated sums come to 30%.
    y, expected = (
        benchmark.outputs(benchmark.onnx_runtime(path, **more), data())
        for path, more in zip(models, (settings, {}), strict=True)
    )
    assert relative(y, expected) < 0.05
    assert (y.argmax(1) == expected.argmax(1)).mean() > 0.8
