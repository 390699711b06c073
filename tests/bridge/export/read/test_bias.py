"""read.bias: biases that other tools store as integers with their own scale, or as Q/DQ pairs."""

import numpy as np
import pytest

from tests.support.conversions import converted_right
from tests.support.graphs.text import MATMUL, W, X, batch, model, the_layer

# Powers of two, as in AMD's XINT8: the float sums are exact too.
EXACT = {"sx": np.float32(2**-4), "sw": np.float32(2**-7), "zw": np.int8(0)}
FLOATS = np.float32([0.75, -0.4375])
INTEGER = X + W + "bd = DequantizeLinear (bq, sb, zb) [fc] y = Gemm (xd, wd, bd)"
SB = np.float32(2**-4)

STORED = {
    "int8": (INTEGER, {"bq": np.int8([12, -7]), "sb": SB, "zb": np.int8(0)}),
    "int8 around a zero point": (
        INTEGER,
        {"bq": np.int8([127, 108]), "sb": SB, "zb": np.int8(115)},
    ),
    "uint8 around a zero point": (
        INTEGER,
        {"bq": np.uint8([140, 121]), "sb": SB, "zb": np.uint8(128)},
    ),
    "int8, a scale a channel": (
        INTEGER.replace("(bq,", "<axis = 0> (bq,"),
        {"bq": np.int8([3, -7]), "sb": np.float32([2**-2, 2**-4]), "zb": np.zeros(2, np.int8)},
    ),
    "int16": (INTEGER, {"bq": np.int16([12, -7]), "sb": SB, "zb": np.int16(0)}),
    "int32 of another scale": (
        INTEGER.replace(", zb", ""),
        {"bq": np.int32([12, -7]), "sb": SB},
    ),
    "floats between a pair": (
        INTEGER.replace("bd =", "bq = QuantizeLinear (f, sb, zb) bd ="),
        {"f": FLOATS, "sb": SB, "zb": np.int8(0)},
    ),
    "int8, reshaped": (
        INTEGER.replace("[fc]", "r = Reshape (bd, two)").replace(", bd)", ", r)"),
        {"bq": np.int8([[12, -7]]), "sb": SB, "zb": np.int8(0), "two": np.int64([2])},
    ),
    "int8, added": (
        MATMUL.replace("y =", "m =") + "bd = DequantizeLinear (bq, sb, zb) y = Add (bd, m)",
        {"bq": np.int8([12, -7]), "sb": SB, "zb": np.int8(0)},
    ),
}


@pytest.mark.parametrize("form", STORED)
def test_every_form_of_a_stored_bias(tmp_path, form):
    body, arrays = STORED[form]
    proto = model(body, opset=21, **EXACT, **arrays)
    layer = the_layer(proto, tmp_path)
    assert layer.bias is not None
    assert np.array_equal(layer.bias, FLOATS * np.float32(2**11))
    done = converted_right(proto, tmp_path, batch(), error=0.0)
    assert not done.left_in_float


def test_a_scale_that_is_no_multiple_of_the_accumulators(tmp_path):
    arrays = {"bq": np.int8([100, -77]), "sb": np.float32(0.0123), "zb": np.int8(0)}
    proto = model(INTEGER, **arrays)
    step = 0.05 * 0.01
    done = converted_right(proto, tmp_path, batch(), error=step / 2 + 1e-5)
    assert not done.left_in_float
