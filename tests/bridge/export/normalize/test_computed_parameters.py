"""bridge.export.normalize.computed_parameters: parameters that files compute from constants."""

import numpy as np
import pytest

from tests.support.conversions import converted_right
from tests.support.graphs.text import (
    BIAS,
    GEMM,
    INTEGERS,
    MATMUL,
    SW,
    SX,
    ZX,
    batch,
    model,
    the_layer,
    the_reason,
)

HALF = np.float32(SX / 2)
CASES = {
    "a product": ("sx = Mul (h, t) ", {"sx": None, "h": HALF, "t": np.float32(2)}),
    "a quotient, cast": (
        "f = Cast <to = 1> (d) sx = Div (f, t) ",
        {"sx": None, "d": np.float64(SX), "t": np.float32(1)},
    ),
    "a zero point, cast": (
        "r = Round (f) zx = Cast <to = 3> (r) ",
        {"zx": None, "f": np.float32(-7.2)},
    ),
    "scales, cast and reshaped": (
        "c = Cast <to = 1> (d) m = Mul (c, o) sw = Reshape (m, s) ",
        {"sw": None, "d": SW.reshape(2, 1).astype(np.float64), "o": np.float32(1),
         "s": np.int64([2])},
    ),
    "scales, joined": (
        "sw = Concat <axis = 0> (p, q) ", {"sw": None, "p": SW[:1], "q": SW[1:]}
    ),
    "a weight, cast": (
        "w = Cast <to = 3> (i) ", {"w": None, "i": INTEGERS.astype(np.int32)}
    ),
    "the largest of the magnitudes": (
        "a = Abs (n) m = Max (a, n) sx = Identity (m) ", {"sx": None, "n": -SX}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_parameters(tmp_path, case):
    before, arrays = CASES[case]
    proto = model(before + MATMUL, **arrays)
    done = converted_right(proto, tmp_path, batch(), error=1e-4)
    assert not done.left_in_float
    layer = the_layer(proto, tmp_path)
    assert layer.scale_x == SX
    assert layer.zero_point_x == ZX
    assert np.array_equal(layer.scale_w, SW)
    assert np.array_equal(layer.weight, INTEGERS)


def test_a_bias(tmp_path):
    codes = np.rint(BIAS / 2**-6).astype(np.int32)
    body = "f = Cast <to = 1> (q) b = Mul (f, t) " + GEMM
    proto = model(body, b=None, q=codes, t=np.float32(2**-6))
    assert not converted_right(proto, tmp_path, batch(), error=1e-3).left_in_float


def test_what_depends_on_the_input_is_left(tmp_path):
    body = "m = ReduceMax <keepdims = 0> (x) sx = Mul (m, t) " + MATMUL
    reason = the_reason(model(body, sx=None, t=np.float32(2)), tmp_path)
    assert reason == "the scale of DequantizeLinear 'dequantize_x' is not constant"


def test_a_product_too_large_to_compute_is_left(tmp_path):
    body = "e = Mul (a, b) sx = Reshape (e, s) " + MATMUL
    wide = {"a": np.ones((1 << 13, 1), np.float32), "b": np.ones((1, 1 << 13), np.float32)}
    reason = the_reason(model(body, sx=None, s=np.int64([1 << 26]), **wide), tmp_path)
    assert reason == "the scale of DequantizeLinear 'dequantize_x' is not constant"
