"""The Ascend dialect: its nodes, the layout of their parameters, and the bits of both models."""

from functools import partial

import numpy as np
import onnx
import pytest

from bridge import ConversionError, convert_qat_model
from bridge.export.running.runtime import run_model
from tests.support import conversions
from tests.support.bits import same_bits
from tests.support.graphs.reading import attributes
from tests.support.graphs.text import (
    ADDED,
    BIAS,
    GEMM,
    INTEGERS,
    PER_TENSOR,
    RECIPROCAL,
    SX,
    W,
    batch,
    convolution,
    model,
    rescaled,
)

convert = partial(conversions.convert, target="ascend")


def deployed(proto, folder):
    """The deploy model's nodes by operator, and its initializers as arrays by name."""
    graph = onnx.load(convert(proto, folder).deploy).graph
    assert {node.domain for node in graph.node} == {""}
    arrays = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    return list(graph.node), arrays


def ascend_codes(x, zero_point, reciprocal=RECIPROCAL):
    """The device multiplies by the reciprocal; counted from the zero point."""
    return np.clip(np.rint(x * reciprocal), -128 - zero_point, 127 - zero_point).astype(np.int64)


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        (GEMM, ["AscendQuant", "Gemm", "AscendDequant"]),
        (ADDED, ["AscendQuant", "MatMul", "Add", "AscendDequant"]),
        (GEMM.replace(", b)", ")"), ["AscendQuant", "MatMul", "AscendDequant"]),
    ],
    ids=["gemm", "matmul and add", "no bias"],
)
def test_nodes_of_a_matrix_product(tmp_path, body, operators):
    nodes, arrays = deployed(model(body, b=BIAS, **PER_TENSOR), tmp_path)
    assert [node.op_type for node in nodes] == operators
    quant, product, dequant = nodes[0], nodes[1], nodes[-1]
    assert attributes(quant) == {"scale": RECIPROCAL, "offset": -7.0, "dst_type": b"INT8"}
    assert list(quant.input) == ["x"]
    weight = arrays[product.input[1]]
    assert weight.dtype == np.int8
    assert np.array_equal(weight, INTEGERS)
    if "b" in body:
        (bias,) = (a for a in arrays.values() if a.dtype == np.int32)
        assert bias.tolist() == np.rint(BIAS / (SX * PER_TENSOR["sw"])).tolist()
    assert attributes(dequant) == {"dtype": 0}
    assert list(dequant.output) == ["y"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_nodes_of_a_convolution_and_the_layout_of_its_scales(tmp_path, op):
    nodes, arrays = deployed(convolution(op), tmp_path)
    assert [node.op_type for node in nodes] == ["AscendQuant", op, "AscendDequant"]
    assert [arrays[name].dtype for name in nodes[1].input[1:]] == [np.int8, np.int32]
    assert attributes(nodes[1]) == {"pads": [1, 1, 0, 0]}
    parameters = arrays[nodes[2].input[1]]
    assert parameters.dtype == np.uint64
    assert parameters.shape == (2,)
    scales = (SX * np.array([0.01, 0.003], np.float32)).astype(np.float32)
    for value, scale in zip(parameters.tolist(), scales, strict=True):
        low = (value & 0xFFFFFFFF).to_bytes(4, "little")
        assert np.frombuffer(low, np.float32)[0] == scale
        assert (value >> 32) & 0xFF == 0, "the weight's offset"
        assert value >> 40 == 0


def test_one_scale_a_tensor_is_one_parameter(tmp_path):
    nodes, arrays = deployed(model(GEMM, b=BIAS, **PER_TENSOR), tmp_path)
    (value,) = arrays[nodes[-1].input[1]].tolist()
    bits = (SX * PER_TENSOR["sw"]).view(np.uint32)
    assert value == int(bits)


@pytest.mark.parametrize("zero", [np.int8(-7), np.uint8(121)])
@pytest.mark.parametrize("body", [GEMM, ADDED], ids=["gemm", "matmul and add"])
def test_bits_of_a_matrix_product(tmp_path, body, zero):
    done = convert(model(body, b=BIAS, zx=zero, **PER_TENSOR), tmp_path)
    x = batch(50)
    sums = ascend_codes(x, -7) @ INTEGERS.astype(np.int64)
    expected = rescaled(sums, SX, PER_TENSOR["sw"], BIAS)
    for path in (done.fake_quant, done.deploy):
        (y,) = run_model(path, [x]).values()
        assert same_bits(y, expected)


def test_the_device_rounds_the_product_with_the_reciprocal(tmp_path):
    # Values for which x / scale and x * (1 / scale) fall on different sides of a half.
    step = np.float32(0.07)
    reciprocal = np.float32(1) / step
    halves = (np.arange(-120, 120) + 0.5).astype(np.float32) * step
    x = halves[np.rint(halves / step) != np.rint(halves * reciprocal)]
    assert x.size >= 3
    x = x[: x.size // 3 * 3].reshape(-1, 3)
    done = convert(model(GEMM, b=BIAS, sx=step, **PER_TENSOR), tmp_path)
    sums = ascend_codes(x, -7, reciprocal) @ INTEGERS.astype(np.int64)
    expected = rescaled(sums, step, PER_TENSOR["sw"], BIAS)
    for path in (done.fake_quant, done.deploy):
        (y,) = run_model(path, [x]).values()
        assert same_bits(y, expected)
    ort = convert_qat_model(tmp_path / "inter.onnx", tmp_path / "ort")
    (other,) = run_model(ort.fake_quant, [x]).values()
    assert not np.array_equal(other, expected)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_bits_of_a_convolution(tmp_path, op):
    done = convert(convolution(op), tmp_path)
    x = np.random.default_rng(3).normal(0, 4, (2, 2, 3, 4)).astype(np.float32)
    kernel = np.array([[100, -3], [7, -128]], np.int64)
    sums = np.einsum("nihw,oi->nohw", ascend_codes(x, -7), kernel if op == "Conv" else kernel.T)
    # Padding adds the integer 0 to a convolution's input and cuts a transposed one's output.
    before = [(0, 0), (0, 0), (1, 0), (1, 0)]
    sums = np.pad(sums, before) if op == "Conv" else sums[:, :, 1:, 1:]
    scale = np.array([0.01, 0.003], np.float32)
    expected = np.moveaxis(rescaled(np.moveaxis(sums, 1, -1), SX, scale, BIAS), -1, 1)
    for path in (done.fake_quant, done.deploy):
        (y,) = run_model(path, [x]).values()
        assert same_bits(y, np.ascontiguousarray(expected))


def test_a_pair_before_a_float_operator_becomes_quant_and_anti_quant(tmp_path):
    body = ADDED + (
        " [q] aq = QuantizeLinear (y, sa, za) [dq] ad = DequantizeLinear (aq, sa, za) "
        "z = Add (ad, ad)"
    )
    extra = {"sa": np.float32(0.3), "za": np.int8(9)}
    proto = model(body, outputs="float[N, 2] z", b=BIAS, **PER_TENSOR, **extra)
    nodes, _ = deployed(proto, tmp_path)
    assert [node.op_type for node in nodes] == [
        *("AscendQuant", "MatMul", "Add", "AscendDequant"),
        *("AscendQuant", "AscendAntiQuant", "Add"),
    ]
    reciprocal = np.float32(1) / np.float32(0.3)
    assert attributes(nodes[4]) == {"scale": reciprocal, "offset": 9.0, "dst_type": b"INT8"}
    assert attributes(nodes[5]) == {"scale": np.float32(0.3), "offset": -9.0}

    done = convert(proto, tmp_path)
    x = batch()
    y = rescaled(ascend_codes(x, -7) @ INTEGERS.astype(np.int64), SX, PER_TENSOR["sw"], BIAS)
    expected = 2 * (ascend_codes(y, 9, reciprocal).astype(np.float32) * np.float32(0.3))
    (z,) = run_model(done.deploy, [x]).values()
    assert np.array_equal(z, expected)


def test_a_pair_that_feeds_a_layer_and_a_float_operator(tmp_path):
    body = ADDED + " r = Relu (xd)"
    proto = model(body, outputs="float[N, 2] y, float[N, 3] r", b=BIAS, **PER_TENSOR)
    nodes, _ = deployed(proto, tmp_path)
    names = [node.op_type for node in nodes]
    assert "QuantizeLinear" not in names
    assert "DequantizeLinear" not in names
    assert names.count("AscendAntiQuant") == 1
    done = convert(proto, tmp_path)
    x = batch()
    expected = np.maximum(ascend_codes(x, -7).astype(np.float32) * SX, 0)
    assert same_bits(run_model(done.deploy, [x])["r"], expected)


def test_a_dequantized_output_keeps_its_name(tmp_path):
    proto = model(ADDED, outputs="float[N, 2] y, float[N, 3] xd", b=BIAS, **PER_TENSOR)
    done = convert(proto, tmp_path)
    x = batch()
    results = run_model(done.deploy, [x])
    assert list(results) == ["y", "xd"]
    assert same_bits(results["xd"], ascend_codes(x, -7).astype(np.float32) * SX)


def test_a_quantizer_that_is_an_output_stays_one(tmp_path):
    proto = model(
        ADDED + " q = QuantizeLinear (y, sx, zx)", outputs="int8[N, 2] q", b=BIAS, **PER_TENSOR
    )
    nodes, _ = deployed(proto, tmp_path)
    assert nodes[-1].op_type == "QuantizeLinear"
    assert list(nodes[-1].output) == ["q"]


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_of_what_stays_in_float_are_written_as_floats(tmp_path, axis):
    scale = np.array([0.1, 0.2, 0.3], np.float32)[: INTEGERS.shape[axis]]
    body = ADDED + (
        f" vd = DequantizeLinear <axis = {axis}> (v, sv, zv) [float] z = MatMul (x, vd)"
    )
    extra = {"v": INTEGERS, "sv": scale, "zv": np.full(scale.shape, 3, np.int8)}
    two = "float[N, 2] y, float[N, 2] z"
    proto = model(body, outputs=two, b=BIAS, **PER_TENSOR, **extra)
    nodes, arrays = deployed(proto, tmp_path)
    (product,) = (node for node in nodes if "z" in node.output)
    shape = (-1, 1) if axis == 0 else (1, -1)
    expected = (INTEGERS.astype(np.float32) - 3) * scale.reshape(shape)
    assert same_bits(arrays[product.input[1]], expected)


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (
            model(GEMM, b=BIAS, zx=np.int16(0), opset=21, **PER_TENSOR),
            "layer 'fc': target 'ascend' takes INT8 activations, got int16",
        ),
        (
            model(GEMM, b=BIAS),
            "inter.onnx has no quantized layer (Gemm 'fc': target 'ascend' takes one "
            "weight scale per tensor for Gemm, got 2)",
        ),
        (
            model(ADDED, b=BIAS),
            "inter.onnx has no quantized layer (MatMul 'fc': target 'ascend' takes one "
            "weight scale per tensor for MatMul, got 2)",
        ),
        (
            model(
                "xd = DequantizeLinear (x, sx, zx)" + W + "[fc] y = MatMul (xd, wd)",
                inputs="int8[N, 3] x",
                **PER_TENSOR,
            ),
            "layer 'fc': target 'ascend' needs a QuantizeLinear just before the layer, "
            "got the graph input",
        ),
    ],
    ids=["int16", "gemm per channel", "matmul per channel", "integers come in"],
)
def test_what_the_target_cannot_hold(tmp_path, proto, message):
    with pytest.raises(ConversionError) as error:
        convert(proto, tmp_path)
    assert str(error.value).removeprefix(f"{tmp_path}/") == message
    assert [path.name for path in tmp_path.iterdir()] == ["inter.onnx"]
