"""bridge.export.lower.uint8_weights: weights around zero points of their own, in every form."""

import numpy as np
import pytest

from bridge import convert_qat_model, sums_int8_exactly
from bridge.export.read.zero_points import split_weight
from tests.support.conversions import converted_right
from tests.support.graphs.text import W, X, model, save
from tests.support.runtime import outputs_at

RNG = np.random.default_rng(5)
CONV = X + W.replace("axis: int = 1", "axis = 0") + "[conv] y = Conv{} (xd, wd)"
IMAGE = {"inputs": "float[2, 4, 7, 7] x", "outputs": "float[A, B, C, D] y"}
VOLUME = {"inputs": "float[2, 2, 5, 5, 5] x", "outputs": "float[A, B, C, D, E] y"}


def codes(*shape: int) -> np.ndarray:
    weight = RNG.integers(0, 256, shape).astype(np.uint8)
    weight.ravel()[:2] = 0, 255  # as far as they go
    return weight


# One zero point for all channels, and one a channel that no byte holds together.
ONE = {"sw": np.float32(0.01), "zw": np.uint8(201)}
APART = {
    "sw": np.float32([0.01, 0.02, 0.005, 0.01]),
    "zw": np.uint8([3, 250, 128, 90]),
}
TRANSPOSED = CONV.replace("Conv{}", "ConvTranspose{}").replace("axis = 0", "axis = 1")
PRODUCT = X + W + "[fc] y = MatMul (xd, wd)"
CASES = {
    "Conv": (CONV.format("<pads = [1, 1, 1, 1]>"), {"w": codes(4, 4, 3, 3)} | IMAGE, (2, 4, 7, 7)),
    "depthwise": (CONV.format("<group = 4>"), {"w": codes(4, 1, 3, 3)} | IMAGE, (2, 4, 7, 7)),
    "3-D": (CONV.format(""), {"w": codes(4, 2, 3, 3, 3)} | VOLUME, (2, 2, 5, 5, 5)),
    "transposed": (
        TRANSPOSED.format("<strides = [2, 2]>"), {"w": codes(4, 4, 3, 3)} | IMAGE, (2, 4, 7, 7)
    ),
    "MatMul": (PRODUCT, {"w": codes(3, 4), "outputs": "float[N, 4] y"}, (9, 3)),
}  # fmt: skip


@pytest.mark.parametrize("zeros", [ONE, APART], ids=["one", "a channel"])
@pytest.mark.parametrize("kind", CASES)
def test_unsigned_weights(tmp_path, kind, zeros):
    body, arrays, shape = CASES[kind]
    x = RNG.normal(0.0, 4.0, shape).astype(np.float32)
    proto = model(body, **(arrays | zeros))
    for vnni in {False, sums_int8_exactly()}:  # right on processors with VNNI alone
        done = converted_right(proto, tmp_path, x, error=1e-2, vnni=vnni)
        assert not done.left_in_float


@pytest.mark.parametrize("zeros", [ONE, APART], ids=["one", "a channel"])
@pytest.mark.parametrize("kind", CASES)
def test_the_portable_form_reads_back(tmp_path, kind, zeros):
    body, arrays, shape = CASES[kind]
    x = RNG.normal(0.0, 4.0, shape).astype(np.float32)
    source = save(model(body, **(arrays | zeros)), tmp_path)
    done = convert_qat_model(source, tmp_path / "net", target="qdq")
    again = convert_qat_model(done.deploy, tmp_path / "again", target="qdq")
    first, second = (
        outputs_at(path.read_bytes(), x, "DISABLE_ALL")[0]
        for path in (done.fake_quant, again.fake_quant)
    )
    assert first.tobytes() == second.tobytes()


def test_signed_weights_around_a_zero_point_that_int8_holds(tmp_path):
    proto = model(PRODUCT, w=np.int8([[27, -5], [-28, 64], [33, 2]]), zw=np.int8([3, -60]))
    x = RNG.normal(0.0, 4.0, (9, 3)).astype(np.float32)
    assert not converted_right(proto, tmp_path, x, error=1e-3).left_in_float


def test_a_chain_with_an_unsigned_weight(tmp_path):
    body = CONV.format("").replace("y =", "c =") + (
        " r = Relu (c) cq = QuantizeLinear (r, sc, zx) cd = DequantizeLinear (cq, sc, zx)"
        " vd = DequantizeLinear (v, sv, zv) [last] y = Conv (cd, vd)"
    )
    proto = model(
        body, w=codes(32, 4, 3, 3), v=codes(4, 32, 1, 1), sc=np.float32(0.5),
        sv=np.float32(0.01), zv=np.uint8(77), **IMAGE, **ONE,
    )  # fmt: skip
    x = RNG.normal(0.0, 4.0, (2, 4, 7, 7)).astype(np.float32)
    # The float source may round a value between the layers to the next code: 0.5 * 178 * 0.01.
    done = converted_right(proto, tmp_path, x, error=0.9)
    assert done.layers[0].form == "QLinearConv"


def test_the_parts_of_a_weight():
    weight = np.int16([-255, -129, -128, 0, 127, 128, 255])
    first, second = split_weight(weight)
    assert first.dtype == np.int8
    assert np.array_equal(first.astype(np.int16) + second, weight)
    assert second.min() >= -127
    assert second.max() <= 128
