"""read.layers: every form of a quantized layer, and the reasons why operators stay in float."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bridge.export.read.layer import output_rows
from tests.support.graphs.layer_forms import BIAS_CODES, BIASES, FLOAT_WEIGHT, FORMS
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
    model,
    read,
    the_layer,
    the_reason,
    with_inputs,
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_matrix_product_reads_the_same(tmp_path, form):
    body, arrays = FORMS[form]
    layer = the_layer(model(body, **arrays), tmp_path)
    assert layer.op == "MatMul"
    assert layer.weight.dtype == np.int8
    assert np.array_equal(layer.weight, INTEGERS)
    assert layer.scale_w.dtype == np.float32
    assert np.array_equal(layer.scale_w, SW)
    assert layer.bias is None
    assert layer.scale_x == SX
    without = form == "input without zero point"
    assert layer.zero_point_x == (np.uint8(0) if without else ZX)
    assert layer.zero_point_x.dtype == (np.uint8 if without else np.int8)
    assert layer.attributes == {}


@pytest.mark.parametrize("scale", [np.float32(0.02), np.array([0.02], np.float32)])
def test_one_scale_a_tensor(tmp_path, scale):
    layer = the_layer(model(MATMUL, sw=scale, zw=np.zeros(scale.shape, np.int8)), tmp_path)
    assert layer.scale_w.tolist() == [np.float32(0.02)]
    assert layer.rescale.tolist() == [SX * np.float32(0.02)]


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16], ids=lambda dtype: dtype.__name__
)
def test_every_input_type(tmp_path, dtype):
    layer = the_layer(model(MATMUL, zx=dtype(5), opset=21), tmp_path)
    assert layer.zero_point_x.dtype == dtype
    assert layer.zero_point_x == 5
    assert layer.wide == (np.dtype(dtype).itemsize == 2)
    info = np.iinfo(dtype)
    assert layer.max_abs_input == max(info.max - 5, 5 - info.min)


@pytest.mark.parametrize("form", BIASES)
def test_every_form_of_a_bias_reads_the_same(tmp_path, form):
    body, arrays = BIASES[form]
    layer = the_layer(model(body, **({"b": BIAS} | arrays)), tmp_path)
    assert layer.bias.dtype == np.int32
    assert np.array_equal(layer.bias, BIAS_CODES)
    assert layer.output.name == "y"


@pytest.mark.parametrize("bias", [np.float32(0.2), np.array([0.2], np.float32)])
def test_one_bias_for_all_channels_of_a_gemm(tmp_path, bias):
    layer = the_layer(model(GEMM, b=bias), tmp_path)
    assert layer.bias.tolist() == np.rint(np.float32(0.2) / (SX * SW)).tolist()


@pytest.mark.parametrize(
    ("body", "arrays"),
    [
        (X + W + "m = MatMul (xd, wd) y = Add (m, b)", {"b": np.ones((7, 2), np.float32)}),
        (X + W + "m = MatMul (xd, wd) y = Add (m, b)", {"b": np.float32(1.0)}),
        (X + W + "m = MatMul (xd, wd) n = Relu (m) o = Add (m, b) y = Add (o, n)", {"b": BIAS}),
        (X + W + "m = MatMul (xd, wd) y = Add (m, m)", {}),
        (X + W + "m = MatMul (xd, wd) b = Relu (m) y = Add (m, b)", {}),
        (X + W + "m = MatMul (xd, wd) y = Sub (m, b)", {"b": BIAS}),
    ],
    ids=["matrix", "scalar", "product read elsewhere", "itself", "not constant", "no addition"],
)
def test_what_is_no_bias_is_left_behind_the_layer(tmp_path, body, arrays):
    layer = the_layer(model(body, **arrays), tmp_path)
    assert layer.bias is None
    assert layer.output.name == "m"


def test_a_product_that_is_an_output_keeps_its_addition_apart(tmp_path):
    two = "float[N, 2] m, float[N, 2] y"
    layer = the_layer(
        model(X + W + "m = MatMul (xd, wd) y = Add (m, b)", outputs=two, b=BIAS), tmp_path
    )
    assert layer.bias is None
    assert layer.output.name == "m"


CONV = X + "wd = DequantizeLinear <axis = 0> (w, sw, zw)"
KERNEL = np.arange(-18, 18, dtype=np.int8).reshape(4, 1, 3, 3)
FOUR = np.array([0.01, 0.02, 0.03, 0.04], np.float32)


def convolution(body, kernel=KERNEL, scale=FOUR, **arrays):
    sizes = {"inputs": "float[N, 2, 5, 5] x", "outputs": "float[N, 4, 5, 5] y"}
    zeros = np.zeros(scale.shape, np.int8)
    return model(CONV + body, **sizes, w=kernel, sw=scale, zw=zeros, **arrays)


def test_a_convolution_keeps_its_attributes(tmp_path):
    body = "y = Conv <group = 2, pads = [1, 1, 1, 1], strides = [1, 1]> (xd, wd, b)"
    bias = np.array([1.0, -1.0, 0.5, 0.0], np.float32)
    layer = the_layer(convolution(body, b=bias), tmp_path)
    assert (layer.op, layer.groups) == ("Conv", 2)
    assert layer.attributes == {"group": 2, "pads": (1, 1, 1, 1), "strides": (1, 1)}
    assert np.array_equal(layer.weight, KERNEL)
    assert np.array_equal(layer.scale_w, FOUR)
    assert np.array_equal(layer.bias, np.rint(bias / (SX * FOUR)).astype(np.int32))


def test_a_transposed_convolution_has_its_channels_on_axis_1(tmp_path):
    kernel = KERNEL.reshape(2, 2, 3, 3)
    body = "y = ConvTranspose <pads = [1, 1, 1, 1]> (xd, wd)"
    proto = convolution(body, kernel, FOUR[:2])
    proto.graph.node[2].attribute[0].i = 1
    layer = the_layer(proto, tmp_path)
    assert layer.op == "ConvTranspose"
    assert layer.scale_w.tolist() == FOUR[:2].tolist()
    reach = np.abs(kernel.astype(int)).transpose(1, 0, 2, 3).reshape(2, -1).sum(1).max()
    assert layer.accumulator_bound == reach * layer.max_abs_input


def test_channels_of_a_grouped_transposed_convolution():
    # (in 4, out/groups 3, k 1) in 2 groups: output (group, column) sums the two rows of its group.
    weight = np.arange(12).reshape(4, 3, 1)
    rows = output_rows(weight, "ConvTranspose", 2)
    assert rows.tolist() == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]
    assert output_rows(weight, "Conv", 2).tolist() == weight.reshape(4, 3).tolist()
    assert output_rows(weight[..., 0], "MatMul", 1).tolist() == weight[..., 0].T.tolist()


def test_the_bound_on_sums_by_hand(tmp_path):
    layer = the_layer(model(GEMM, b=BIAS), tmp_path)
    reach = 134  # 127 - -7
    sums = np.abs(INTEGERS.astype(int)).sum(0) * reach + np.abs(BIAS_CODES)
    assert layer.max_abs_input == reach
    assert layer.accumulator_bound == sums.max() == (127 + 128 + 33) * reach + 2600
    assert layer.proven


@pytest.mark.parametrize(("inputs", "proven"), [(65_793, True), (65_794, False)])
def test_proven_ends_at_2_to_the_24(tmp_path, inputs, proven):
    # 255 * 65,793 = 2^24 - 1
    weight = np.ones((inputs, 1), np.int8)
    proto = model(
        MATMUL,
        inputs=f"float[N, {inputs}] x",
        outputs="float[N, 1] y",
        zx=np.uint8(0),
        w=weight,
        sw=np.float32(1.0),
        zw=np.int8(0),
    )
    layer = the_layer(proto, tmp_path)
    assert layer.proven == proven
    assert layer.accumulator_bound == 255 * inputs


def test_layers_come_in_topological_order_and_doubled_names_are_numbered(tmp_path):
    body = X + W + "[fc] m = MatMul (xd, wd) [fc] n = MatMul (xd, wd) [g] y = Add (m, n)"
    layers, floats = read(model(body), tmp_path)
    assert [layer.name for layer in layers] == ["fc", "fc#2"]
    assert [layer.output.name for layer in layers] == ["m", "n"]
    assert not floats


def test_a_function_is_read_as_what_it_does(tmp_path):
    body = X + W + "y = local.product (xd, wd)"
    functions = (
        '<domain: "local", opset_import: ["" : 17]> product (a, b) => (c) { c = MatMul (a, b) }'
    )
    layer = the_layer(model(body, functions=functions), tmp_path)
    assert np.array_equal(layer.weight, INTEGERS)


def test_initializers_are_inputs_too_in_the_oldest_files(tmp_path):
    layer = the_layer(with_inputs(model(MATMUL), ir_version=3), tmp_path)
    assert np.array_equal(layer.weight, INTEGERS)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("w", "its weight"),
        ("sw", "the scale of DequantizeLinear 'dequantize_w'"),
        ("zx", "the zero point of DequantizeLinear 'dequantize_x'"),
        ("b", "its bias"),
    ],
)
def test_an_initializer_that_callers_may_set_is_no_constant(tmp_path, name, what):
    proto = with_inputs(model(GEMM, b=BIAS), name, ir_version=4)
    assert the_reason(proto, tmp_path) == (
        f"{what} is not constant: {name!r} is an input of the model, which callers may set"
    )


IF = (
    "zero = Sub (sx, sx) yes = Equal (zero, zero) y = If (yes) <"
    "then_branch = t () => (float[N, 2] a) {{ {then} }}, "
    "else_branch = e () => (float[N, 2] b) {{ b = Identity (m) }}>"
)


def test_an_operator_inside_a_subgraph_is_a_layer(tmp_path):
    inner = "[inner] a = MatMul (xd, wd)"
    body = X + W + "[outer] m = MatMul (xd, wd) " + IF.format(then=inner)
    layers, floats = read(model(body), tmp_path)
    assert [layer.name for layer in layers] == ["outer", "inner"]
    assert not floats


def test_other_domains_are_not_looked_at(tmp_path):
    proto = model(MATMUL + " z = Neg (y)")
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    proto.graph.node.append(helper.make_node("Conv", ["y"], ["o"], domain="com.example"))
    assert the_layer(proto, tmp_path).name == "fc"


def int4(values):
    return helper.make_tensor("w", TensorProto.INT4, values.shape, values.ravel())


REASONS = {
    "float input": (W + "y = MatMul (x, wd)", {}, "its input is not dequantized"),
    "constant input": (
        "xd = DequantizeLinear (c, sx, zx)" + W + "y = MatMul (xd, wd)",
        {"c": np.ones((1, 3), np.int8)},
        "its input is a constant",
    ),
    "input quantized along an axis": (
        MATMUL,
        {"sx": np.float32([0.1, 0.1, 0.2]), "zx": np.zeros(3, np.int8)},
        "its input is not quantized per tensor",
    ),
    "int32 input": (
        "i = Cast <to = 6> (x) xd = DequantizeLinear (i, sx, zx)" + W + "y = MatMul (xd, wd)",
        {"zx": np.int32(0)},
        "its input is quantized to int32, not 8 or 16 bits",
    ),
    "scale of the input computed": (
        MATMUL.replace("(xq, sx, zx)", "(xq, s, zx)").replace(
            "[dequantize_x]", "s = ReduceMax <keepdims = 0> (x) [dequantize_x]"
        ),
        {},
        "the scale of DequantizeLinear 'dequantize_x' is not constant",
    ),
    "zero point of the input computed": (
        MATMUL.replace("(xq, sx, zx)", "(xq, sx, z)").replace(
            "[dequantize_x]", "z = ReduceMax <keepdims = 0> (xq) [dequantize_x]"
        ),
        {},
        "the zero point of DequantizeLinear 'dequantize_x' is not constant",
    ),
    "scale of the weight computed": (
        X
        + "s = ReduceMax <keepdims = 0> (x) [dequantize_w] wd = DequantizeLinear (w, s) "
        + "y = MatMul (xd, wd)",
        {},
        "the scale of DequantizeLinear 'dequantize_w' is not constant",
    ),
    "float weight": (X + "y = MatMul (xd, f)", {"f": FLOAT_WEIGHT}, "its weight is not quantized"),
    "weight computed by an operator": (
        X + W + "v = Relu (wd) y = MatMul (xd, v)",
        {},
        "its weight is not quantized",
    ),
    "two activations": (
        X + "t = Transpose (xd) y = MatMul (xd, t)",
        {},
        "its weight is not constant",
    ),
    "weight quantized from an activation": (
        X + "t = Transpose (x) tq = QuantizeLinear (t, sx, zx) td = DequantizeLinear (tq, sx, zx) "
        "y = MatMul (xd, td)",
        {},
        "its weight is not constant",
    ),
    "weight around zero points within a channel": (
        MATMUL.replace("axis: int = 1", "axis = 0"),
        {"sw": np.full(3, 0.01, np.float32), "zw": np.int8([100, -100, 0])},
        "its weight's zero point varies within an output channel",
    ),
    "int16 weight": (
        MATMUL,
        {"w": INTEGERS.astype(np.int16), "zw": np.zeros(2, np.int16)},
        "its weight is quantized to int16, not 8 bits",
    ),
    "int4 weight": (
        MATMUL.replace("(w, sw, zw)", "(w, sw)"),
        {"w": int4(np.array([[1, -2], [3, -4], [5, -6]]))},
        "its weight is quantized to int4, not 8 bits",
    ),
    "weight in blocks": (
        X + "wd = DequantizeLinear <axis = 0, block_size = 3> (w, sw, zw) y = MatMul (xd, wd)",
        {"sw": SW.reshape(1, 2), "zw": np.zeros((1, 2), np.int8)},
        "its weight is quantized in blocks",
    ),
    "weight of rank 3": (
        MATMUL,
        {"w": INTEGERS.reshape(1, 3, 2), "sw": np.float32(0.1), "zw": np.int8(0)},
        "its weight has rank 3, not 2",
    ),
    "scale along the inputs": (
        MATMUL.replace("axis: int = 1", "axis = 0"),
        {"sw": np.array([0.1, 0.2, 0.3], np.float32), "zw": np.zeros(3, np.int8)},
        "its weight scale varies within an output channel",
    ),
    "float16 scale": (
        "h = Cast <to = 10> (x) xq = QuantizeLinear (h, sx, zx) "
        "[dequantize_x] xd = DequantizeLinear (xq, sx, zx) " + W + "y = MatMul (xd, wd)",
        {"sx": np.float16(0.05)},
        "the scale of 'dequantize_x' is float16, not float32",
    ),
    "alpha": (X + W + "y = Gemm <alpha = 0.5> (xd, wd)", {}, "its alpha is 0.5, not 1"),
    "beta": (X + W + "y = Gemm <beta = 2.0> (xd, wd, b)", {"b": BIAS}, "its beta is 2.0, not 1"),
    "transA": (
        X + W + "y = Gemm <transA = 1> (xd, wd)",
        {},
        "its input is transposed (transA)",
    ),
    "bias computed": (
        X + W + "b = ReduceMax <keepdims = 0> (x) y = Gemm (xd, wd, b)",
        {},
        "its bias is not constant",
    ),
    "bias a column": (
        GEMM,
        {"b": np.ones((2, 1), np.float32)},
        "its bias has shape (2, 1), not one value per channel",
    ),
    "bias a matrix": (
        GEMM,
        {"b": np.ones((2, 2), np.float32)},
        "its bias has shape (2, 2), not one value per channel",
    ),
    "bias dequantized around a zero point": (
        X + W + "b = DequantizeLinear (bq, sx, zb) y = Gemm (xd, wd, b)",
        {"b": None, "bq": np.array([1, 2], np.int32), "zb": np.int32(3)},
        "its bias is int32 with a zero point, which ONNX does not allow",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_why_an_operator_is_left_in_float(tmp_path, case):
    body, arrays, reason = REASONS[case]
    assert the_reason(model(body, opset=21, **arrays), tmp_path) == reason


BAD = [0.0, -0.1, np.inf, np.nan]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("which", ["sx", "sw"])
def test_a_scale_no_integer_model_can_have(tmp_path, which, value):
    scale = np.array([0.1, value], np.float32) if which == "sw" else np.float32(value)
    node = "dequantize_x" if which == "sx" else "dequantize_w"
    reason = the_reason(model(MATMUL, **{which: scale}), tmp_path)
    assert reason.startswith(f"the scale of DequantizeLinear '{node}' must be positive and finite")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_weight_that_is_not_finite(tmp_path, value):
    body, _ = FORMS["weight quantized in the file"]
    weight = FLOAT_WEIGHT.copy()
    weight[1, 1] = value
    assert the_reason(model(body, f=weight), tmp_path) == "its weight has NaN or infinite values"


@pytest.mark.parametrize("value", [2.0**31, -(2.0**31), 1e30, np.inf, np.nan])
def test_a_bias_beyond_int32_costs_the_layer(tmp_path, value):
    bias = np.array([0.0, value], np.float32) * (1 if abs(value) > 1e20 else SX * SW[1])
    reason = the_reason(model(GEMM, b=bias.astype(np.float32)), tmp_path)
    assert reason.startswith(
        ("its bias / (scale_x * scale_w) must fit int32", "its sums can reach")
    )


@pytest.mark.parametrize(
    ("dtype", "zero", "inputs", "fits"),
    [
        (np.uint8, 0, 65_793, True),  # 255 * 128 * 65,793 = 2^31 - 2^7
        (np.uint8, 0, 65_794, False),
        (np.int8, 0, 131_071, True),  # 128 * 128 * 131,071 = 2^31 - 2^14
        (np.int8, 0, 131_072, False),
    ],
)
def test_sums_beyond_int32_cost_the_layer(tmp_path, dtype, zero, inputs, fits):
    proto = model(
        MATMUL,
        inputs=f"float[N, {inputs}] x",
        outputs="float[N, 1] y",
        zx=dtype(zero),
        w=np.full((inputs, 1), -128, np.int8),
        sw=np.float32(1.0),
        zw=np.int8(0),
    )
    if fits:
        assert the_layer(proto, tmp_path).accumulator_bound < 2**31
        return
    assert re.match(r"its sums can reach 2147\d+, beyond", the_reason(proto, tmp_path))


def test_a_model_in_memory_is_left_as_it_is(tmp_path):
    proto = model(GEMM, b=BIAS)
    before = proto.SerializeToString(deterministic=True)
    the_layer(proto, tmp_path)
    assert proto.SerializeToString(deterministic=True) == before
    assert onnx.load(tmp_path / "inter.onnx") == proto
