"""explain: why a layer has its form, how much work it is, and how near its limits."""

import numpy as np
import onnx
import pytest

from bridge import ConversionError, convert_qat_model, explain
from bridge.export.plan import costs
from bridge.export.targets.table import TARGETS
from tests.support.conversions import Estimated, convert_integers_first
from tests.support.graphs.chains import chained, long_sums
from tests.support.graphs.ones import layer
from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, SW, SX, X, model, save


def explained(proto, folder, *, shapes=None, **options):
    done = convert_integers_first(save(proto, folder), folder / "net", **options)
    return explain(done, input_shapes=shapes)


CODES = "q = QuantizeLinear (c, sc, zc) y = DequantizeLinear (q, sc, zc)"
INT, QLINEAR, FLOAT = costs.INTEGER, costs.QLINEAR, costs.FLOAT
HALVES = "; 16-bit input, as two halves of 8 bits"
WIDE = {"zx": np.int16(5)}

CHOICES = {
    "depthwise": (layer((6, 1, 3, 3), groups=6), (9, 4), FLOAT, "depthwise: float is faster"),
    "grouped": (layer((6, 2, 3, 3), groups=3), (9, 4), FLOAT, "3 groups: float is faster"),
    "few channels": (
        layer((6, 2, 3, 3)),
        (9, 4),
        FLOAT,
        "too few channels, 2 in and 6 out: float is faster",
    ),
    "integers": (layer((6, 2, 3, 3)), (4, 9), INT, "fastest"),
    "a chain": (layer((6, 2, 3, 3), behind=CODES), (4, 9, 2), QLINEAR, "proven equal, and fastest"),
    "a slow chain": (
        layer((6, 2, 3, 3), behind=CODES),
        (4, 9, 5),
        INT,
        "faster than QLinearConv here",
    ),
    "a float chain": (
        layer((6, 1, 3, 3), groups=6, behind=CODES),
        (4, 1, 5),
        FLOAT,
        "depthwise: float is faster",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_convolution_takes_the_cheapest_form(tmp_path, name):
    proto, times, form, reason = CHOICES[name]

    def estimates(layer, forms, *, chained):
        named = dict(zip((INT, FLOAT, QLINEAR), times, strict=False))
        assert set(forms) == set(named)
        assert chained == (QLINEAR in named)
        return named | {costs.FLOAT32: 6.0}

    (row,) = explained(proto, tmp_path, target=Estimated(estimates=estimates)).layers
    assert (row.form, row.reason) == (form, reason)
    assert row.arithmetic == ("float32" if form == FLOAT else "int8")
    assert row.speed == 6.0 / min(times)


OTHERS = {
    "1-D": (layer((6, 2, 3)), INT, "fastest", None),
    "3-D": (layer((64, 64, 1, 1, 1)), INT, "fastest", 6.0 / 2.0),
    "a 3-D chain": (
        layer((64, 64, 1, 1, 1), behind=CODES),
        QLINEAR,
        "proven equal, and fastest",
        6.0 / 1.0,
    ),
    "16 bits": (layer((64, 64, 1, 1), **WIDE), INT, f"fastest{HALVES}", None),
    "transposed": (
        layer((2, 6, 3, 3), "ConvTranspose"),
        FLOAT,
        "no integer operator for it",
        None,
    ),
    "transposed, 16 bits": (
        layer((2, 6, 3, 3), "ConvTranspose", **WIDE),
        FLOAT,
        f"no integer operator for it{HALVES}",
        None,
    ),
    "a matrix": (
        model(MATMUL),
        "MatMulInteger",
        "the integer operator of matrix products",
        None,
    ),
    "a matrix, 16 bits": (
        model(MATMUL, opset=21, **WIDE),
        "MatMulInteger",
        f"the integer operator of matrix products{HALVES}",
        None,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_table_tells_the_speed_of_what_was_measured(tmp_path, name):
    proto, form, reason, speed = OTHERS[name]
    (row,) = explained(proto, tmp_path).layers
    assert (row.form, row.reason, row.speed) == (form, reason, speed)


@pytest.mark.parametrize("target", ["qdq", "ascend"])
def test_targets_of_one_form(tmp_path, target):
    proto = model(GEMM, b=BIAS, sw=np.float32(0.01), zw=np.int8(0))
    found = explained(proto, tmp_path, target=target, shapes={"x": (5, 3)})
    (row,) = found.layers
    assert row.reason == f"the one form of target '{target}'"
    assert row.arithmetic == ("runtime" if target == "qdq" else "int8")
    assert found.left_to_runtime == (target == "qdq")
    assert (found.macs, found.int8_share) == (30, 1.0)


A_PRODUCT = X.replace("x", "a") + X.replace("x", "b") + "[product] y = MatMul (ad, bd)"
SCALES = {"sa": SX, "za": np.int8(-7), "sb": SX, "zb": np.int8(3)}


@pytest.mark.parametrize("target", TARGETS)
def test_a_product_of_two_activations(tmp_path, target):
    inputs = "float[5, 4, 3] a, float[5, 3, 2] b"
    proto = model(A_PRODUCT, inputs=inputs, outputs="float[5, 4, 2] y", **SCALES)
    info = onnx.helper.make_tensor_value_info("ad", onnx.TensorProto.FLOAT, (5, 4, 3))
    proto.graph.value_info.append(info)
    # A conversion needs a layer with a weight.
    other = onnx.compose.add_prefix(model(MATMUL, sw=np.float32(0.01), zw=np.int8(0)), "other_")
    both = onnx.compose.merge_models(proto, other, io_map=[])
    found = explained(both, tmp_path, target=target)
    row, beside = found.layers
    assert (row.name, beside.name) == ("product", "other_fc")
    assert found.macs is found.int8_share is None, "the other's batch is open"
    assert (row.op, row.reason) == ("MatMul", "the one form of a product of two activations")
    assert (row.macs, row.macs_per_position) == (5 * 4 * 3 * 2, 6)
    assert row.bound == 3 * 134 * 131
    assert row.int32_bits == np.log2(2**31 / row.bound)
    assert row.bias_bits is None
    assert row.arithmetic == ("runtime" if target == "qdq" else "int8")


FLOAT_TOO = GEMM + " [float] z = MatMul (y, f)"


def test_what_is_left_in_float_counts(tmp_path):
    proto = model(FLOAT_TOO, outputs="float[N, 5] z", b=BIAS, f=np.ones((2, 5), np.float32))
    found = explained(proto, tmp_path, shapes={"x": (7, 3)})
    fc, left = found.layers
    assert (fc.macs, left.macs) == (7 * 3 * 2, 7 * 2 * 5)
    assert (left.form, left.arithmetic) == ("float", "float32")
    assert left.reason == "its input is not dequantized"
    assert (left.bound, left.int32_bits, left.float32_bits, left.speed) == (None,) * 4
    assert found.macs == 7 * 16
    assert found.int8_share == 6 / 16


def test_integer_valued_floats_are_no_int8(tmp_path):
    (row,) = (found := explained(layer((2, 6, 3, 3), "ConvTranspose"), tmp_path)).layers
    assert row.macs == 7 * 7 * 2 * 6 * 9
    assert found.int8_share == 0.0


def test_an_open_batch(tmp_path):
    found = explained(model(MATMUL), tmp_path)
    (row,) = found.layers
    assert (row.macs, row.macs_per_position) == (None, 6)
    assert found.macs is found.int8_share is None
    assert explained(model(MATMUL), tmp_path, shapes={"x": (7, 3)}).macs == 42


def test_bits_that_are_left(tmp_path):
    (row,) = explained(model(GEMM, b=BIAS), tmp_path).layers
    bias = np.rint(BIAS / (SX * SW))
    reach = (134 * np.abs(INTEGERS.astype(int)).sum(0) + np.abs(bias)).max()
    assert row.bound == reach
    assert row.int32_bits == np.log2(2**31 / reach)
    assert row.float32_bits == np.log2(2**24 / reach)
    assert row.bias_bits == np.log2(2**31 / np.abs(bias).max())


def test_sums_beyond_2_to_24_have_less_than_no_bit_left(tmp_path):
    sizes = {"inputs": "float[N, 1024] x", "outputs": "float[N, 2] y"}
    (row,) = explained(model(MATMUL, w=np.full((1024, 2), 127, np.int8), **sizes), tmp_path).layers
    assert row.float32_bits == np.log2(2**24 / (1024 * 127 * 134)) < 0 < row.int32_bits


def test_a_weight_of_zeros_leaves_every_bit(tmp_path):
    (row,) = explained(model(MATMUL, w=np.zeros((3, 2), np.int8)), tmp_path).layers
    assert (row.bound, row.int32_bits) == (0, np.inf)


def test_sums_of_16_bits_are_no_int32(tmp_path):
    (row,) = explained(model(MATMUL, opset=21, **WIDE), tmp_path).layers
    assert row.int32_bits is None
    assert row.float32_bits == np.log2(2**24 / row.bound)


def test_thresholds(tmp_path):
    proto = chained("c = Relu (f)", **long_sums())
    first, second = explained(proto, tmp_path).layers
    assert first.proof.natural + first.proof.adjusted == 64
    assert first.proof.adjusted > 0 == first.proof.unmatched
    assert first.unchained is None
    assert second.proof is None
    assert second.unchained == "'y' is an output of the model"
    held, _ = explained(proto, tmp_path, max_ulps=0).layers
    assert held.proof.unmatched == first.proof.adjusted
    assert held.unchained.startswith(f"{held.proof.unmatched} of 64 channels have no multiplier")


def test_the_converted_model_must_be_there(tmp_path):
    source = save(model(MATMUL), tmp_path)
    done = convert_qat_model(source, tmp_path / "net")
    save(model(MATMUL.replace("fc", "other")), tmp_path)
    with pytest.raises(ConversionError, match=r"inter.onnx has no layer 'fc'; it is not the model"):
        explain(done)
    source.unlink()
    with pytest.raises(FileNotFoundError, match=r"inter\.onnx"):
        explain(done)


def test_another_kind_than_a_conversion(tmp_path):
    with pytest.raises(TypeError, match=r"^explain: conversion must be what .*, got PosixPath$"):
        explain(tmp_path)
