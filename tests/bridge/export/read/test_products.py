"""bridge.export.read.products: products of 16-bit activations, as products of their two bytes."""

import numpy as np
import pytest

from bridge import ConversionError, convert_qat_model
from tests.support.conversions import converted_right
from tests.support.graphs.text import model, save

BODY = (
    "aq = QuantizeLinear (x, sa, za) ad = DequantizeLinear (aq, sa, za) "
    "t = Transpose <perm = [1, 0]> (x) bq = QuantizeLinear (t, sb, zb) "
    "bd = DequantizeLinear (bq, sb, zb) [mm] y = MatMul (ad, bd)"
)
SHAPES = {"inputs": "float[5, 7] x", "outputs": "float[5, 5] y", "opset": 21}
KINDS = {
    "int16, int16": (np.int16(0), np.int16(-300)),
    "uint16, uint16": (np.uint16(40_000), np.uint16(3)),
    "int16, int8": (np.int16(77), np.int8(-5)),
    "uint8, uint16": (np.uint8(130), np.uint16(32_768)),
}


def wide(kind: str):
    zero_a, zero_b = KINDS[kind]
    scales = [np.float32(0.05 if zero.dtype.itemsize == 1 else 2e-4) for zero in (zero_a, zero_b)]
    return model(BODY, sa=scales[0], za=zero_a, sb=scales[1], zb=zero_b, **SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_codes_of_16_bits(tmp_path, kind):
    x = np.random.default_rng(0).normal(0.0, 3.0, (5, 7)).astype(np.float32)
    done = converted_right(wide(kind), tmp_path, x, error=1e-3)
    (layer,) = done.layers
    assert (layer.form, layer.bits) == ("MatMulInteger", 16)
    assert not done.left_in_float


@pytest.mark.parametrize("kind", KINDS)
def test_mode_fast(tmp_path, kind):
    x = np.random.default_rng(1).normal(0.0, 3.0, (5, 7)).astype(np.float32)
    converted_right(wide(kind), tmp_path, x, error=1e-3, mode="fast", data=[x])


def test_ascend_takes_none(tmp_path):
    message = "^layer 'mm': target 'ascend' takes INT8 activations, got int16$"
    with pytest.raises(ConversionError, match=message):
        convert_qat_model(save(wide("int16, int16"), tmp_path), tmp_path / "net", target="ascend")


def test_the_reason_names_the_second_input(tmp_path):
    body = BODY.replace("(t, sb, zb)", "<axis = 0> (t, sb, zb)").replace(
        "bd = DequantizeLinear", "bd = DequantizeLinear <axis = 0>"
    )
    scales = np.linspace(0.1, 0.2, 7).astype(np.float32)
    zeros = np.zeros(7, np.int8)
    proto = model(body, sa=np.float32(0.1), za=np.int8(0), sb=scales, zb=zeros, **SHAPES)
    with pytest.raises(ConversionError, match="its second input is not quantized per tensor"):
        convert_qat_model(save(proto, tmp_path), tmp_path / "net")
