"""The forms of a layer: their nodes, and their bits against sums in NumPy integers."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from bridge.export.graph.names import LAYER_KEY
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.conversions import convert_integers_first
from tests.support.graphs.layer_forms import BIASES, FORMS
from tests.support.graphs.text import (
    ADDED,
    BIAS,
    GEMM,
    INTEGERS,
    LAYER,
    MATMUL,
    SW,
    SX,
    W,
    X,
    batch,
    codes,
    model,
    rescaled,
    save,
)


def converted(proto, folder):
    """The fake-quant and the deploy model."""
    done = convert_integers_first(save(proto, folder), folder / "net")
    models = onnx.load(done.fake_quant), onnx.load(done.deploy)
    for one in models:
        onnx.checker.check_model(one, full_check=True)
    return models


def outputs(proto, folder, *inputs):
    """The first output of the fake-quant and of the deploy model."""
    done = convert_integers_first(save(proto, folder), folder / "net")
    return [next(iter(run_model(path, inputs).values())) for path in (done.fake_quant, done.deploy)]


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def initializer_types(proto):
    """The element type of every initializer that an operator multiplies or convolves with."""
    types = {value.name: value.data_type for value in proto.graph.initializer}
    names = {t: onnx.TensorProto.DataType.Name(t) for t in types.values()}
    return {name: names[kind] for name, kind in types.items()}


INTEGER_WEIGHT = ["Cast", "Add", "Cast"]
TAIL = ["Add", "Cast", "Mul"]


@pytest.mark.parametrize("body", [GEMM, ADDED], ids=["gemm", "matmul and add"])
def test_nodes_of_a_matrix_product(tmp_path, body):
    fake, deploy = converted(model(body, b=BIAS), tmp_path)
    assert operators(fake) == ["QuantizeLinear", "DequantizeLinear", "MatMul", "Cast", *TAIL]
    assert operators(deploy) == ["QuantizeLinear", *INTEGER_WEIGHT, "MatMulInteger", *TAIL]


def test_the_weight_is_int8_on_disk_and_float_only_in_fake_quant(tmp_path):
    fake, deploy = converted(model(GEMM, b=BIAS), tmp_path)
    for proto, dtype in ((fake, np.float32), (deploy, np.int8)):
        arrays = [onnx.numpy_helper.to_array(value) for value in proto.graph.initializer]
        (weight,) = (array for array in arrays if array.shape == (3, 2))
        assert weight.dtype == dtype
        assert np.array_equal(weight, INTEGERS)


def test_an_unsigned_input_is_taken_as_it_is(tmp_path):
    _, deploy = converted(model(MATMUL, zx=np.uint8(5)), tmp_path)
    assert operators(deploy) == ["QuantizeLinear", *INTEGER_WEIGHT, "MatMulInteger", "Cast", "Mul"]


def test_nodes_of_convolutions(tmp_path):
    for op, kernel, attributes, name in (
        ("Conv", (3, 2, 1, 1), "", "ConvInteger"),
        ("ConvTranspose", (2, 3, 1, 1), "", "ConvInteger"),
        ("ConvTranspose", (2, 3, 1, 1, 1), "", None),
        ("ConvTranspose", (2, 3, 1, 1), 'auto_pad = "SAME_UPPER"', None),
        ("ConvTranspose", (2, 3, 1, 1), "output_shape = [4, 5]", None),
    ):
        proto = spatial(op, attributes, np.ones(kernel, np.int8), np.float32(0.5))
        fake, deploy = converted(proto, tmp_path)
        assert operators(fake) == ["QuantizeLinear", "DequantizeLinear", op, "Cast", "Cast", "Mul"]
        if name:
            expected = ["QuantizeLinear", *INTEGER_WEIGHT, name, "Cast", "Mul"]
        else:  # no ordinary convolution of fixed padding: int8 on disk, cast when loaded
            expected = ["QuantizeLinear", "Cast", "DequantizeLinear", op, "Round", "Mul"]
        assert operators(deploy) == expected
        assert "INT8" in initializer_types(deploy).values()


def test_nodes_name_the_layer_they_belong_to(tmp_path):
    for proto in converted(model(GEMM, b=BIAS), tmp_path):
        written = [node for node in proto.graph.node if node.name != "quantize_x"]
        assert all(node.name.startswith("fc/") for node in written)
        for node in written:
            assert {p.key: p.value for p in node.metadata_props} == {LAYER_KEY: "fc"}


def test_the_output_keeps_its_name_and_type(tmp_path):
    for proto in converted(model(GEMM, b=BIAS), tmp_path):
        assert [value.name for value in proto.graph.input] == ["x"]
        (y,) = proto.graph.output
        assert y.name == "y"
        assert y.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert y.type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize("form", FORMS)
def test_bits_of_every_form_of_a_matrix_product(tmp_path, form):
    body, arrays = FORMS[form]
    x = batch()
    zero = np.uint8(0) if form == "input without zero point" else LAYER["zx"]
    expected = rescaled(codes(x, SX, zero) @ INTEGERS.astype(np.int64), SX, SW)
    for y in outputs(model(body, **arrays), tmp_path, x):
        assert same_bits(y, expected)


@pytest.mark.parametrize("form", BIASES)
def test_bits_of_every_form_of_a_bias(tmp_path, form):
    body, arrays = BIASES[form]
    x = batch()
    expected = rescaled(codes(x, SX, LAYER["zx"]) @ INTEGERS.astype(np.int64), SX, SW, BIAS)
    for y in outputs(model(body, **({"b": BIAS} | arrays)), tmp_path, x):
        assert same_bits(y, expected)


@pytest.mark.parametrize(
    "zero",
    [
        np.int8(-128),
        np.int8(127),
        np.uint8(0),
        np.uint8(255),
        np.int16(-32768),
        np.int16(300),
        np.int16(32767),
        np.uint16(0),
        np.uint16(40000),
    ],
    ids=lambda zero: f"{zero.dtype}{zero}",
)
@pytest.mark.parametrize("scale", [SW, np.float32(0.01)], ids=["channels", "tensor"])
def test_bits_of_every_input_type(tmp_path, zero, scale):
    step = SX if zero.dtype.itemsize == 1 else np.float32(SX / 100)
    x = batch(20)
    zw = np.zeros(scale.shape, np.int8)
    proto = model(GEMM, zx=zero, sx=step, sw=scale, zw=zw, b=BIAS, opset=21)
    expected = rescaled(codes(x, step, zero) @ INTEGERS.astype(np.int64), step, scale, BIAS)
    for y in outputs(proto, tmp_path, x):
        assert same_bits(y, expected)


def test_bits_of_a_matrix_product_of_rank_3(tmp_path):
    sizes = {"inputs": "float[N, T, 3] x", "outputs": "float[N, T, 2] y"}
    x = batch(12).reshape(2, 6, 3)
    expected = rescaled(codes(x, SX, LAYER["zx"]) @ INTEGERS.astype(np.int64), SX, SW, BIAS)
    for y in outputs(model(ADDED, b=BIAS, **sizes), tmp_path, x):
        assert same_bits(y, expected)


CONV = "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx) "


def spatial(op, attributes, kernel, scale, bias=None, **more):
    axes = ", ".join("DHW"[3 - (kernel.ndim - 2) :])
    body = CONV + f"wd = DequantizeLinear <axis = {int(op == 'ConvTranspose')}> (w, sw, zw) "
    operands = "xd, wd" if bias is None else "xd, wd, b"
    body += f"[layer] y = {op} {f'<{attributes}>' if attributes else ''} ({operands})"
    return model(
        body,
        inputs=f"float[N, C, {axes}] x",
        outputs=f"float[N, K, {axes.replace(', ', '2, ')}2] y",
        w=kernel,
        sw=scale,
        zw=np.zeros(scale.shape, np.int8),
        b=bias,
        **more,
    )


SPATIAL = {
    "conv1d": (
        "Conv",
        "pads = [2, 2], dilations = [2]",
        (4, 3, 3),
        lambda x, w: F.conv1d(x, w, padding=2, dilation=2),
    ),
    "conv2d": (
        "Conv",
        "group = 3, pads = [1, 0, 1, 0], strides = [2, 1]",
        (6, 1, 3, 2),
        lambda x, w: F.conv2d(x, w, padding=(1, 0), stride=(2, 1), groups=3),
    ),
    "conv2d padded on one side": (
        "Conv",
        "pads = [0, 1, 1, 0]",
        (4, 3, 2, 2),
        lambda x, w: F.conv2d(F.pad(x, (1, 0, 0, 1)), w),
    ),
    "conv2d auto_pad": (
        "Conv",
        'auto_pad = "SAME_UPPER"',
        (4, 3, 2, 2),
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 0, 1)), w),
    ),
    "conv3d": (
        "Conv",
        "pads = [1, 0, 1, 1, 0, 1]",
        (2, 3, 2, 1, 3),
        lambda x, w: F.conv3d(x, w, padding=(1, 0, 1)),
    ),
    "conv_transpose2d": (
        "ConvTranspose",
        "pads = [1, 1, 1, 1], strides = [2, 2], output_padding = [1, 0]",
        (3, 4, 3, 3),
        lambda x, w: F.conv_transpose2d(x, w, padding=1, stride=2, output_padding=(1, 0)),
    ),
    "conv_transpose2d in groups": (
        "ConvTranspose",
        "group = 3, dilations = [1, 2]",
        (3, 2, 2, 3),
        lambda x, w: F.conv_transpose2d(x, w, groups=3, dilation=(1, 2)),
    ),
}


@pytest.mark.parametrize("zero", [np.int8(-100), np.int16(1000)], ids=["int8", "int16"])
@pytest.mark.parametrize("case", SPATIAL)
def test_bits_of_convolutions(tmp_path, case, zero):
    op, attributes, shape, function = SPATIAL[case]
    random = np.random.default_rng(1)
    kernel = random.integers(-128, 128, shape).astype(np.int8)
    grouped = case == "conv_transpose2d in groups"
    count = shape[1] if op == "ConvTranspose" else shape[0]
    scale = random.uniform(0.001, 0.01, 1 if grouped else count).astype(np.float32)
    scale = scale.reshape(()) if grouped else scale
    bias = random.normal(0, 1, 6 if grouped else count).astype(np.float32)
    step = SX if zero.dtype.itemsize == 1 else np.float32(SX / 50)
    sizes = (5, 4, 6)[: kernel.ndim - 2]
    x = random.normal(0, 3, (2, 3, *sizes)).astype(np.float32)
    proto = spatial(op, attributes, kernel, scale, bias, zx=zero, sx=step, opset=21)

    # float64 holds these integer sums exactly, in any order.
    centered = torch.from_numpy(codes(x, step, zero).astype(np.float64))
    sums = function(centered, torch.from_numpy(kernel.astype(np.float64))).numpy()
    sums = np.moveaxis(sums, 1, -1).astype(np.int64)
    expected = np.moveaxis(rescaled(sums, step, scale, bias), -1, 1)
    for y in outputs(proto, tmp_path, x):
        assert same_bits(y, np.ascontiguousarray(expected))


def test_bits_of_one_scale_a_channel_of_a_grouped_transposed_convolution(tmp_path):
    # As the exporters write it: quantized in rows of channels, then laid out for the operator.
    random = np.random.default_rng(2)
    rows = random.integers(-128, 128, (6, 2, 2, 2)).astype(np.int8)  # (group, out) x in
    scale = random.uniform(0.001, 0.01, 6).astype(np.float32)
    body = CONV + (
        "wd = DequantizeLinear <axis = 0> (w, sw, zw) r = Reshape (wd, split) "
        "t = Transpose <perm = [0, 2, 1, 3, 4]> (r) k = Reshape (t, joined) "
        "y = ConvTranspose <group = 2> (xd, k)"
    )
    proto = model(
        body,
        inputs="float[N, 4, H, W] x",
        outputs="float[N, 6, H2, W2] y",
        w=rows,
        sw=scale,
        zw=np.zeros(6, np.int8),
        split=np.array([2, 3, 2, 2, 2]),
        joined=np.array([4, 3, 2, 2]),
    )
    x = random.normal(0, 3, (1, 4, 3, 3)).astype(np.float32)
    kernel = rows.reshape(2, 3, 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(4, 3, 2, 2)
    centered = torch.from_numpy(codes(x, SX, LAYER["zx"]).astype(np.float64))
    weight = torch.from_numpy(kernel.astype(np.float64))
    sums = F.conv_transpose2d(centered, weight, groups=2).numpy().astype(np.int64)
    expected = np.moveaxis(rescaled(np.moveaxis(sums, 1, -1), SX, scale), -1, 1)
    for y in outputs(proto, tmp_path, x):
        assert same_bits(y, np.ascontiguousarray(expected))


def test_one_pair_for_two_layers_and_a_float_operator(tmp_path):
    body = X + W + "[a] m = MatMul (xd, wd) [b] n = MatMul (xd, wd) y = Sub (m, n) r = Relu (xd)"
    proto = model(body, outputs="float[N, 2] y, float[N, 3] r, float[N, 2] m")
    done = convert_integers_first(save(proto, tmp_path), tmp_path / "net")
    assert [layer.name for layer in done.layers] == ["a", "b"]
    x = batch()
    centered = codes(x, SX, LAYER["zx"])
    for path in (done.fake_quant, done.deploy):
        results = run_model(path, [x])
        assert not results["y"].any()
        assert same_bits(results["m"], rescaled(centered @ INTEGERS.astype(np.int64), SX, SW))
        assert same_bits(results["r"], np.maximum(centered.astype(np.float32) * SX, 0))


def test_outputs_in_the_middle_of_the_model_stay_outputs(tmp_path):
    body = X + W + "[fc] m = MatMul (xd, wd) y = Relu (m) q = QuantizeLinear (y, sx, zx)"
    proto = model(body, outputs="float[N, 2] m, int8[N, 2] q, int8[N, 3] xq, float[N, 3] xd")
    done = convert_integers_first(save(proto, tmp_path), tmp_path / "net")
    x = batch()
    centered = codes(x, SX, LAYER["zx"])
    m = rescaled(centered @ INTEGERS.astype(np.int64), SX, SW)
    q = codes(np.maximum(m, 0), SX, LAYER["zx"]) + int(LAYER["zx"])
    for path in (done.fake_quant, done.deploy):
        results = run_model(path, [x])
        assert list(results) == ["m", "q", "xq", "xd"]
        assert same_bits(results["m"], m)
        assert same_bits(results["q"], q.astype(np.int8))
        assert same_bits(results["xq"], (centered + int(LAYER["zx"])).astype(np.int8))
        assert same_bits(results["xd"], centered.astype(np.float32) * SX)


def test_a_layer_read_inside_a_subgraph(tmp_path):
    body = (
        X
        + W
        + (
            "m = MatMul (xd, wd) zero = Sub (sx, sx) yes = Equal (zero, zero) y = If (yes) <"
            "then_branch = t () => (float[N, 2] a) { a = Neg (m) }, "
            "else_branch = e () => (float[N, 2] b) { b = Identity (m) }>"
        )
    )
    x = batch()
    expected = -rescaled(codes(x, SX, LAYER["zx"]) @ INTEGERS.astype(np.int64), SX, SW)
    for y in outputs(model(body), tmp_path, x):
        assert same_bits(y, expected)


def test_a_layer_whose_input_is_already_integers(tmp_path):
    body = "xd = DequantizeLinear (x, sx, zx)" + W + "y = MatMul (xd, wd)"
    x = np.array([[-128, 127, 0], [5, -7, 3]], np.int8)
    expected = rescaled((x.astype(np.int64) + 7) @ INTEGERS.astype(np.int64), SX, SW)
    for y in outputs(model(body, inputs="int8[N, 3] x"), tmp_path, x):
        assert same_bits(y, expected)


def test_a_pair_of_two_scales_keeps_both(tmp_path):
    # The quantizer's scale rounds, the dequantizer's scale says what the integers mean.
    proto = model(
        MATMUL.replace("QuantizeLinear (x, sx, zx)", "QuantizeLinear (x, other, five)", 1),
        other=np.float32(0.25),
        five=np.int8(5),
    )
    x = batch()
    integers = codes(x, np.float32(0.25), np.int8(5)) + 5 + 7
    expected = rescaled(integers @ INTEGERS.astype(np.int64), SX, SW)
    for y in outputs(proto, tmp_path, x):
        assert same_bits(y, expected)


def test_no_negative_zero_comes_out(tmp_path):
    # Integers have one zero: a sum of 0 is +0.0 whatever its parts were.
    x = np.zeros((1, 3), np.float32)
    for y in outputs(model(MATMUL), tmp_path, x):
        assert same_bits(y, np.zeros((1, 2), np.float32))


def test_conversion_of_16_bits_raises_the_opset(tmp_path):
    body = X + W + "[fc] y = MatMul (xd, wd)"
    proto = model(body, zx=np.int16(0))
    assert proto.opset_import[0].version == 17
    fake, deploy = converted(proto, tmp_path)
    for one in (fake, deploy):
        assert one.opset_import[0].version == 21
        assert one.ir_version == 10


@pytest.mark.parametrize(
    ("opset", "given", "written"), [(17, 12, 9), (20, 10, 9), (17, 8, 8), (21, 11, 11)]
)
def test_an_ir_version_that_says_nothing_is_lowered(tmp_path, opset, given, written):
    # ONNX Runtime 1.17 refuses 10 and above, and torch's default exporter writes 10 for opset 20.
    proto = model(GEMM, b=BIAS, opset=opset)
    proto.ir_version = given
    done = convert_integers_first(save(proto, tmp_path), tmp_path / "net")
    for path in (done.fake_quant, done.deploy):
        assert onnx.load(path).ir_version == written
