"""A BatchNormalization after a layer is folded if the caller wants it and the result is right."""

import numpy as np
import onnx
import pytest

from bridge import ConversionError, convert_qat_model
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import (
    BIAS,
    GEMM,
    INTEGERS,
    MATMUL,
    SW,
    SX,
    ZX,
    W,
    X,
    batch,
    codes,
    model,
    save,
)

NORM = " n = BatchNormalization <epsilon: float = 0.01> (y, gamma, beta, mean, var)"
STATISTICS = {
    "gamma": np.array([1.5, -0.4], np.float32),
    "beta": np.array([0.2, 3.0], np.float32),
    "mean": np.array([-1.0, 0.7], np.float32),
    "var": np.array([0.3, 2.0], np.float32),
}
CONV = X + "wd = DequantizeLinear <axis: int = 0> (w, sw, zw) [conv] y = Conv (xd, wd)"
KERNEL = np.arange(-6, 6, dtype=np.int8).reshape(2, 3, 1, 2)


def normed(body=GEMM, norm=NORM, *, outputs="float[N, 2] n", **options):
    given = {"b": BIAS, "outputs": outputs, **STATISTICS, **options}
    return model(body + norm, **given)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def convert(proto, folder, **options):
    return convert_qat_model(save(proto, folder), folder / "net", **options)


def folded(sums, axis_last=True):
    """float32(sums) * (scales * factor) + shift, by the formulas of the reader."""
    gamma, beta, mean, var = (v.astype(np.float64) for v in STATISTICS.values())
    factor = gamma / np.sqrt(var + np.float64(np.float32(0.01)))
    shift = (beta - mean * factor).astype(np.float32)
    rescale = ((SX * SW).astype(np.float32) * factor).astype(np.float32)
    shape = (-1,) if axis_last else (-1, 1, 1)
    return sums.astype(np.float32) * rescale.reshape(shape) + shift.reshape(shape)


@pytest.mark.parametrize("body", [GEMM, MATMUL, X + W + "[fc] m = MatMul (xd, wd) y = Add (m, b)"])
def test_bits_of_a_matrix_product(tmp_path, body):
    done = convert(normed(body), tmp_path, fold_batch_norm=True)
    x = batch()
    sums = codes(x, SX, ZX) @ INTEGERS.astype(np.int64)
    if body != MATMUL:
        sums = sums + np.rint(BIAS / (SX * SW)).astype(np.int64)
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["n"], folded(sums)), path
        assert "BatchNormalization" not in operators(path)
    assert [layer.form for layer in done.layers] == ["MatMulInteger, BatchNorm folded"]


def test_bits_of_a_convolution(tmp_path):
    proto = normed(CONV, inputs="float[N, 3, H, L] x", outputs="float[N, 2, H, M] n", w=KERNEL)
    done = convert(proto, tmp_path, fold_batch_norm=True)
    x = np.random.default_rng(0).normal(0.0, 3.0, (2, 3, 4, 5)).astype(np.float32)
    q = codes(x, SX, ZX)
    windows = np.lib.stride_tricks.sliding_window_view(q, 2, axis=3)
    sums = np.einsum("nchwk,ock->nohw", windows, KERNEL[:, :, 0].astype(np.int64))
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["n"], folded(sums, axis_last=False)), path


def test_bits_on_ascend(tmp_path):
    proto = normed(sw=np.array([0.01], np.float32), zw=np.zeros(1, np.int8))
    done = convert(proto, tmp_path, target="ascend", fold_batch_norm=True)
    assert operators(done.deploy) == ["AscendQuant", "Gemm", "AscendDequant", "Add"]
    results = [run_model(path, [batch()])["n"] for path in (done.fake_quant, done.deploy)]
    assert same_bits(*results)


def test_the_plain_form_keeps_it(tmp_path):
    done = convert(normed(), tmp_path)
    x = batch()
    results = [run_model(path, [x])["n"] for path in (done.fake_quant, done.deploy)]
    assert same_bits(*results)
    for path in (done.fake_quant, done.deploy):
        assert operators(path)[-1] == "BatchNormalization"


LINEAR_3D = {"inputs": "float[N, 2, 3] x", "outputs": "float[N, 2, 2] n"}
OVERFLOW = {
    "sw": np.array([10.0, 0.003], np.float32),
    "gamma": np.array([3e38, 1.0], np.float32),
    "mean": np.zeros(2, np.float32),
    "var": np.zeros(2, np.float32),
}
"""scale_x * scale_w * factor is beyond float32 in the first channel."""

TRAINING = (
    " n, a, c = BatchNormalization <epsilon: float = 0.01, training_mode: int = 1>"
    " (y, gamma, beta, mean, var)"
)


@pytest.mark.parametrize(
    "proto",
    [
        normed(norm=NORM + " z = Relu (y)", outputs="float[N, 2] n, float[N, 2] z"),
        normed(outputs="float[N, 2] n, float[N, 2] y"),
        normed(MATMUL, **LINEAR_3D),
        normed(var=np.array([0.3, -1.0], np.float32)),
        normed(norm=" g = Abs (gamma)" + NORM.replace("(y, gamma", "(y, g")),
        normed(**OVERFLOW),
    ],
    ids=["another reader", "an output", "another axis", "no deviation", "computed", "overflow"],
)
def test_what_is_not_folded(tmp_path, proto):
    done = convert(proto, tmp_path, fold_batch_norm=True)
    assert [layer.form for layer in done.layers] == ["MatMulInteger"]
    for path in (done.fake_quant, done.deploy):
        assert "BatchNormalization" in operators(path)


def test_a_norm_in_training_form_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"BatchNormalization.*training"):
        convert(normed(norm=TRAINING), tmp_path, fold_batch_norm=True)
