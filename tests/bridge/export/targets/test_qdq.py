"""The portable QDQ form: its nodes, axes and stored numbers, and how far a float runtime may go."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bridge import ConversionError, convert_qat_model
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.exporters import export
from tests.support.graphs.layer_forms import BIAS_CODES, BIASES, FLOAT_WEIGHT, FORMS
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
    save,
)
from tests.support.modules.nested import nested
from tests.support.runtime import run_at, session_at

PAIR = ["QuantizeLinear", "DequantizeLinear"]


def convert(proto, folder, name="net", **more):
    return convert_qat_model(save(proto, folder), folder / name, target="qdq", **more)


def deployed(proto, folder, **more):
    """The deploy model, checked."""
    written = onnx.load(convert(proto, folder, **more).deploy)
    onnx.checker.check_model(written, full_check=True)
    return written


def arrays(proto):
    return {value.name: onnx.numpy_helper.to_array(value) for value in proto.graph.initializer}


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def stored(proto):
    """Of each DequantizeLinear of an initializer: integers, scale, zero point (or None), axis."""
    known = arrays(proto)
    return [
        (
            *(known[name] for name in node.input[:2]),
            known[node.input[2]] if len(node.input) > 2 else None,
            next((a.i for a in node.attribute if a.name == "axis"), None),
        )
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in known
    ]


def no_float_but_scales(proto):
    """Whether every float initializer is the scale of a Q or DQ node."""
    scales = {node.input[1] for node in proto.graph.node if node.op_type in PAIR}
    return all(a.dtype.kind != "f" or name in scales for name, a in arrays(proto).items())


def plain(path, x):
    """The first output in ONNX Runtime as the file says it: without graph optimizations."""
    return run_at(path, x, "DISABLE_ALL")


def gamma(count):
    """The largest relative error of `count` float32 roundings."""
    return count * 2.0**-24 / (1 - count * 2.0**-24)


@pytest.mark.parametrize(
    ("body", "operator"),
    [(GEMM, ["Gemm"]), (ADDED, ["MatMul", "Add"])],
    ids=["gemm", "matmul and add"],
)
def test_nodes_of_a_matrix_product(tmp_path, body, operator):
    proto = deployed(model(body, b=BIAS), tmp_path)
    assert Counter(operators(proto)) == Counter([*PAIR, *PAIR[1:] * 2, *operator])
    (weight, scale, zero, axis), (bias, bias_scale, none, bias_axis) = stored(proto)
    assert same_bits(weight, INTEGERS)
    assert same_bits(scale, SW)
    assert same_bits(zero, np.zeros(2, np.int8))
    assert same_bits(bias, BIAS_CODES)
    assert same_bits(bias_scale, SX * SW)
    assert none is None, "int32 has no zero point in ONNX"
    assert (axis, bias_axis) == (1, 0)
    assert no_float_but_scales(proto)


def test_one_scale_a_tensor_is_a_scalar_without_an_axis(tmp_path):
    proto = deployed(model(GEMM, b=BIAS, sw=np.float32(0.01), zw=np.int8(0)), tmp_path)
    for _, scale, zero, axis in stored(proto):
        assert scale.shape == ()
        assert axis is None
        assert zero is None or zero.shape == ()


def rewritten(body, tmp_path, **values):
    """The deploy model of a matrix product in some form, which no form may show in."""
    proto = deployed(model(body, **values), tmp_path)
    weight, *rest = stored(proto)
    assert same_bits(weight[0], INTEGERS)
    assert same_bits(weight[1], SW)
    assert not {"Reshape", "Transpose"} & set(operators(proto))
    return proto, rest


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_weight_comes_out_alike(tmp_path, form):
    body, values = FORMS[form]
    proto, rest = rewritten(body, tmp_path, **values)
    assert not rest
    if form != "weights in constants":  # there a scale is behind an Identity
        assert no_float_but_scales(proto)


@pytest.mark.parametrize("form", BIASES)
def test_every_form_of_a_bias_comes_out_alike(tmp_path, form):
    body, values = BIASES[form]
    proto, ((bias, scale, _, _),) = rewritten(body, tmp_path, **{"b": BIAS} | values)
    assert same_bits(bias, BIAS_CODES)
    assert same_bits(scale, SX * SW)
    assert no_float_but_scales(proto)


def spatial(op, groups, scale, *, kernel=(4, 3, 1, 1), geometry="", **more):
    """A convolution of 4 channels; one scale for each pair (group, channel)."""
    random = np.random.default_rng(0)
    integers = random.integers(-128, 128, kernel).astype(np.int8)
    body = X + "wd = DequantizeLinear <axis = 0> (w, sw, zw) "
    value = "wd"
    if op == "ConvTranspose" and groups > 1 and scale.size > 1:
        inputs = kernel[0] // groups
        rows = integers.reshape(groups, inputs, *kernel[1:]).swapaxes(1, 2)
        more |= {"split": np.array(rows.shape), "whole": np.array(kernel)}
        body += "s = Reshape (wd, split) t = Transpose <perm = [0, 2, 1, 3, 4]> (s) "
        body += "r = Reshape (t, whole) "
        integers, value = rows.reshape(-1, inputs, *kernel[2:]), "r"
    elif op == "ConvTranspose" and scale.size > 1:
        body = body.replace("axis = 0", "axis = 1")
    body += f"[conv] y = {op} <group = {groups} {geometry}> (xd, {value}, b)"
    channels = kernel[0] if op == "Conv" else kernel[1] * groups
    bias = random.normal(size=channels).astype(np.float32)
    sizes = {"inputs": "float[N, C, H, V] x", "outputs": "float[N, D, E, F] y"}
    zeros = np.zeros(scale.shape, np.int8)
    return model(body, **sizes, w=integers, sw=scale, zw=zeros, b=bias, **more)


THREE = np.array([0.01, 0.003, 0.02], np.float32)
FOUR = np.array([0.01, 0.003, 0.02, 0.005], np.float32)
SIX = np.concatenate([THREE, THREE[::-1]])


@pytest.mark.parametrize(
    ("proto", "axis", "scale"),
    [
        (spatial("Conv", 1, FOUR), 0, FOUR),
        (spatial("Conv", 2, FOUR), 0, FOUR),
        (spatial("ConvTranspose", 1, THREE), 1, THREE),
        (spatial("ConvTranspose", 2, np.tile(THREE, 2)), 1, THREE),
        (spatial("ConvTranspose", 4, FOUR, kernel=(4, 1, 2, 2)), 0, FOUR),
        (spatial("ConvTranspose", 2, FOUR[:2], kernel=(4, 1, 2, 2)), 0, np.repeat(FOUR[:2], 2)),
        (spatial("ConvTranspose", 2, np.float32(0.01)), None, np.float32(0.01)),
    ],
    ids=[
        "conv",
        "grouped conv",
        "transposed",
        "scales that groups share",
        "depthwise transposed",
        "one channel a group",
        "one scale",
    ],
)
def test_the_axis_of_a_convolution(tmp_path, proto, axis, scale):
    written = deployed(proto, tmp_path)
    (weight, scale_w, zero, axis_w), bias = stored(written)
    assert weight.dtype == np.int8
    assert axis_w == axis
    assert same_bits(scale_w, np.asarray(scale))
    assert zero.dtype == np.int8
    assert not zero.any()
    assert bias[0].dtype == np.int32
    assert operators(written)[-1] in ("Conv", "ConvTranspose")
    assert len(written.graph.node) == 5
    assert no_float_but_scales(written)


def test_channels_that_no_axis_holds_are_rows(tmp_path):
    written = deployed(spatial("ConvTranspose", 2, SIX), tmp_path)
    (weight, scale, _, axis), _ = stored(written)
    assert weight.shape == (6, 2, 1, 1)
    assert same_bits(scale, SIX)
    assert axis == 0
    moved = [op for op in operators(written) if op in ("Reshape", "Transpose")]
    assert moved == ["Reshape", "Transpose", "Reshape"]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_the_dequantized_numbers_are_products_in_every_bit(tmp_path, op):
    scale = FOUR if op == "Conv" else SIX
    done = convert(spatial(op, 2 if op == "ConvTranspose" else 1, scale), tmp_path)
    proto = onnx.load(done.deploy)
    conv = next(node for node in proto.graph.node if node.op_type == op)
    names = conv.input[1:]
    x = np.zeros((1, 3 if op == "Conv" else 4, 2, 2), np.float32)
    weight, bias = (run_model(done.deploy, [x], names)[name] for name in names)
    # The file that was converted dequantizes the same integers by the same scales.
    source = onnx.load(tmp_path / "inter.onnx")
    name = next(n for n in source.graph.node if n.op_type == op).input[1]
    assert same_bits(weight, run_model(tmp_path / "inter.onnx", [x], [name])[name])
    rescale = SX * scale
    expected = np.rint(arrays(source)["b"] / rescale).astype(np.int32).astype(np.float32) * rescale
    assert same_bits(bias, expected)


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
@pytest.mark.parametrize("zero", [np.int8(-7), np.uint8(121)])
def test_the_model_keeps_its_opset(tmp_path, opset, zero):
    written = deployed(model(GEMM, b=BIAS, opset=opset, zx=zero), tmp_path)
    assert written.opset_import[0].version == opset
    assert arrays(written)["zx"].dtype == zero.dtype
    y = plain(tmp_path / "net_deploy_model.onnx", batch())
    assert np.allclose(y, run_model(tmp_path / "net_fake_quant_model.onnx", [batch()])["y"])


def test_16_bits_need_opset_21(tmp_path):
    written = deployed(model(GEMM, b=BIAS, zx=np.int16(-7)), tmp_path)
    assert written.opset_import[0].version == 21
    assert stored(written)[1][0].dtype == np.int32


@pytest.mark.parametrize("depth", [3, 64, 500])
def test_a_float_runtime_stays_within_the_bound(tmp_path, depth):
    # K products of two dequantized numbers (3 roundings each; the bias has 3 too), K sums, and
    # the 3 roundings of fake-quant itself.
    random = np.random.default_rng(depth)
    weight = random.integers(-128, 128, (depth, 8)).astype(np.int8)
    scale = random.uniform(0.001, 0.1, 8).astype(np.float32)
    bias = random.normal(0, 10, 8).astype(np.float32)
    sizes = {"inputs": f"float[N, {depth}] x", "outputs": "float[N, 8] y"}
    proto = model(GEMM, **sizes, w=weight, sw=scale, zw=np.zeros(8, np.int8), b=bias)
    done = convert(proto, tmp_path)
    x = batch(200, depth, seed=1)
    y, fake = plain(done.deploy, x), run_model(done.fake_quant, [x])["y"]
    rescale = (SX * scale).astype(np.float64)
    magnitude = np.abs(codes(x, SX, LAYER["zx"])) @ np.abs(weight.astype(np.int64))
    magnitude = magnitude + np.abs(np.rint(bias / rescale))
    bound = gamma(depth + 6) * magnitude * rescale
    error = np.abs(y.astype(np.float64) - fake)
    assert (error <= bound).all()
    # The bound is not idle: one step of a weight can make more, 134 being the largest integer.
    assert (bound < 134 * rescale).all()
    # What quantizes y next differs only where fake-quant lies within the bound of a tie. Steps of
    # 1/20 of y's spread: of 1,600 codes none differ here, and the largest error is 0.41, 0.034 and
    # 0.0065 of the bound.
    step = np.float32(fake.std() / 20)
    differ = np.rint(y / step) != np.rint(fake / step)
    distance = np.abs(np.abs(fake / step - np.rint(fake / step)) - 0.5) * step
    assert (distance[differ] <= bound[differ] + np.abs(fake[differ]) * gamma(2)).all()


def test_ties_are_where_codes_differ(tmp_path):
    # Every y on a tie of the next quantizer, its step being twice the accumulator's: rounding in
    # the float sum decides most of them anew.
    proto = model(MATMUL, sw=np.float32(0.013), zw=np.int8(0))
    done = convert(proto, tmp_path)
    x = batch(500)
    y, fake = plain(done.deploy, x), run_model(done.fake_quant, [x])["y"]
    unit = np.float32(SX * np.float32(0.013))
    odd = np.rint(fake / unit) % 2 == 1
    differ = np.rint(y / (2 * unit)) != np.rint(fake / (2 * unit))
    assert differ.any()
    assert not differ[~odd].any()
    assert np.abs(np.rint(y / (2 * unit)) - np.rint(fake / (2 * unit))).max() == 1


def test_reading_the_file_again(tmp_path):
    first = convert(model(ADDED, b=BIAS), tmp_path)
    second = convert_qat_model(first.deploy, tmp_path / "again", target="qdq")
    assert second.layers[0].name == first.layers[0].name == "fc"
    assert first.layers[0].bound == second.layers[0].bound
    x = batch(50)
    assert same_bits(*(run_model(d.fake_quant, [x])["y"] for d in (first, second)))
    assert stored(onnx.load(second.deploy))[1][0].tolist() == BIAS_CODES.tolist()


@pytest.mark.parametrize("body", [GEMM, ADDED], ids=["gemm", "matmul and add"])
def test_a_stored_bias_beyond_2_24_comes_through(tmp_path, body):
    # In float32 these would be rounded to multiples of 2 and more.
    large = np.array([(1 << 30) + 1, -(1 << 24) - 1], np.int32)
    body = X + W + "b = DequantizeLinear <axis = 0> (bq, sb) " + body.removeprefix(X + W)
    proto = model(body, b=None, bq=large, sb=SX * SW)
    assert stored(deployed(proto, tmp_path))[1][0].tolist() == large.tolist()


def test_products_of_activations_keep_their_pairs(tmp_path):
    body = (
        X + "q = QuantizeLinear (v, sv, zx) vd = DequantizeLinear (q, sv, zx) "
        "[mul] y = MatMul (xd, vd)"
    )
    proto = model(
        body, inputs="float[N, 3] x, float[3, 2] v", outputs="float[N, 2] y", sv=np.float32(0.02)
    )
    done = convert(proto, tmp_path)
    assert [(layer.name, layer.form) for layer in done.layers] == [("mul", "QDQ")]
    assert Counter(operators(onnx.load(done.deploy))) == Counter([*PAIR, *PAIR, "MatMul"])


def test_constants_of_float_operators_are_stored_as_integers_too(tmp_path):
    body = MATMUL + (
        " vq = QuantizeLinear <axis = 1> (v, sw, zw) vd = DequantizeLinear <axis = 1> (vq, sw, zw) "
        "[float] z = MatMul (x, vd)"
    )
    two = "float[N, 2] y, float[N, 2] z"
    written = deployed(model(body, outputs=two, v=FLOAT_WEIGHT), tmp_path)
    assert no_float_but_scales(written)
    assert [same_bits(number[0], INTEGERS) for number in stored(written)] == [True, True]


def test_a_batch_normalization_stays_where_it_is(tmp_path):
    ones = np.ones(2, np.float32)
    body = MATMUL.replace("y = MatMul", "m = MatMul") + (
        " y = BatchNormalization (m, gamma, beta, mean, var)"
    )
    numbers = {"gamma": ones, "beta": ones, "mean": ones * 0.5, "var": ones * 2}
    proto = model(body, outputs="float[N, 2] y", **numbers)
    done = convert(proto, tmp_path, fold_batch_norm=True)
    assert operators(onnx.load(done.deploy))[-2:] == ["MatMul", "BatchNormalization"]
    assert operators(onnx.load(done.fake_quant))[-2:] == ["Mul", "Add"]
    assert done.layers[0].form == "QDQ"


def test_onnx_runtime_can_be_asked_for_precision(tmp_path):
    # On processors without VNNI its integer kernels saturate; this option avoids that, and would
    # fail on zero points that two weights share.
    body = MATMUL.replace("y = MatMul", "m = MatMul") + (
        " [q2] mq = QuantizeLinear (m, sx, zx) [d2] md = DequantizeLinear (mq, sx, zx) "
        "vd = DequantizeLinear <axis = 1> (v, sw, zw) [second] n = MatMul (md, vd) "
        "[q3] nq = QuantizeLinear (n, sx, zx) [d3] y = DequantizeLinear (nq, sx, zx)"
    )
    square = INTEGERS[:2].copy()
    done = convert(model(body, outputs="float[N, 2] y", v=square), tmp_path)
    session = session_at(done.deploy, "ENABLE_ALL", x64quantprecision="1")
    x = batch(50)
    steps = (session.run(None, {"x": x})[0] - run_model(done.fake_quant, [x])["y"]) / SX
    assert np.abs(np.rint(steps)).max() <= 1


@pytest.fixture(scope="module")
def every_layer(tmp_path_factory):
    """The model, a batch, and the inter models of both exporters."""
    (net, x), folder = nested(), tmp_path_factory.mktemp("nested")
    names = ("default", "torchscript")
    return net, x, {name: export(net, (x,), folder / f"{name}.onnx", name) for name in names}


@pytest.mark.parametrize("exporter", ["default", "torchscript"])
def test_a_model_of_every_layer(every_layer, tmp_path, exporter):
    net, x, paths = every_layer
    done = convert_qat_model(paths[exporter], tmp_path / "net", target="qdq")
    written = onnx.load(done.deploy)
    onnx.checker.check_model(written, full_check=True)
    assert {layer.form for layer in done.layers} == {"QDQ"}
    assert [layer.name for layer in done.layers] == list(net.NAMES)
    integers = [a for a in arrays(written).values() if a.dtype == np.int8 and a.ndim > 1]
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    assert sorted(a.size for a in integers) == sorted(w.numel() for w in weights)
    assert no_float_but_scales(written)
    again = convert_qat_model(done.deploy, tmp_path / "again", target="qdq")
    assert [layer.name for layer in again.layers] == list(net.NAMES)
    numbers = torch.randn(x.shape).numpy()
    first, second = (run_model(d.fake_quant, [numbers]) for d in (done, again))
    for one, other in zip(first.values(), second.values(), strict=True):
        assert same_bits(one, other)


def test_the_standard_says_the_same(tmp_path):
    # onnx's own evaluator, in NumPy: nothing here leans on one runtime's reading of the nodes.
    done = convert(model(ADDED, b=BIAS, opset=21), tmp_path)
    x = batch(50)
    (y,) = ReferenceEvaluator(onnx.load(done.deploy)).run(None, {"x": x})
    magnitude = np.abs(codes(x, SX, LAYER["zx"])) @ np.abs(INTEGERS.astype(np.int64))
    bound = gamma(3 + 6) * (magnitude + np.abs(BIAS_CODES)) * (SX * SW).astype(np.float64)
    assert (np.abs(y.astype(np.float64) - run_model(done.fake_quant, [x])["y"]) <= bound).all()


def symmetric(body, **values):
    return model(body, **{"zx": np.int8(0)} | values)


def test_symmetric_activations_on_request(tmp_path):
    written = deployed(symmetric(ADDED, b=BIAS), tmp_path, symmetric=True)
    zeros = [
        arrays(written)[node.input[2]]
        for node in written.graph.node
        if node.op_type in PAIR and len(node.input) > 2
    ]
    assert len(zeros) == 3
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


@pytest.mark.parametrize(
    ("body", "values", "found"),
    [
        (MATMUL, {}, "layer 'fc' (int8 -7)"),
        (MATMUL, {"zx": np.uint8(128)}, "layer 'fc' (uint8 128)"),
        (
            MATMUL + " [q] r = QuantizeLinear (y, sx, zr) z = DequantizeLinear (r, sx, zr)",
            {"zx": np.int8(0), "zr": np.int8(3), "outputs": "float[N, 2] z"},
            "node 'q' (int8 3)",
        ),
    ],
)
def test_what_is_not_symmetric_is_refused_by_name(tmp_path, body, values, found):
    with pytest.raises(ConversionError) as error:
        convert(model(body, **values), tmp_path, symmetric=True)
    assert str(error.value) == (
        f"inputs or weights with zero points: {found}; a symmetric model needs layers trained with "
        "retrain_data_config['asymmetric'] = False"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["inter.onnx"]


@pytest.mark.parametrize("opset", range(13, 22))
@pytest.mark.parametrize("exporter", ["default", "torchscript"])
def test_the_opset_can_be_chosen(every_layer, tmp_path, exporter, opset):
    net, x, paths = every_layer
    kept, done = (
        convert_qat_model(paths[exporter], tmp_path / name, target="qdq", opset=number)
        for name, number in (("kept", None), ("net", opset))
    )
    written = onnx.load(done.deploy)
    assert written.opset_import[0].version == opset
    assert written.ir_version <= (10 if opset == 21 else 9)
    onnx.checker.check_model(written, full_check=True)
    assert same_bits(*(plain(d.deploy, x.numpy()) for d in (kept, done)))
    again = convert_qat_model(done.deploy, tmp_path / "again", target="qdq")
    assert [layer.name for layer in again.layers] == list(net.NAMES)


@pytest.mark.parametrize("opset", range(13, 22))
def test_the_opset_can_be_raised(tmp_path, opset):
    done = convert(model(GEMM, b=BIAS, opset=13), tmp_path, opset=opset)
    assert onnx.load(done.deploy).opset_import[0].version == opset
    kept = convert(model(GEMM, b=BIAS, opset=13), tmp_path, name="kept")
    assert same_bits(*(plain(d.deploy, batch()) for d in (kept, done)))


def test_what_no_older_opset_has(tmp_path):
    with pytest.raises(ConversionError, match="layer 'fc': 16-bit activations need opset 21, got"):
        convert(model(MATMUL, zx=np.int16(0), opset=21), tmp_path, opset=20)
    proto = model(MATMUL.replace("y =", "m =") + " y = Gelu (m)", opset=20)
    with pytest.raises(ConversionError, match=r"^the model cannot be written for opset 17: .*Gelu"):
        convert(proto, tmp_path, opset=17)
    proto = model(MATMUL.replace("y =", "m =") + " [tril] y = Trilu (m)", opset=14)
    with pytest.raises(ConversionError, match="cannot be written for opset 13: Trilu 'tril'"):
        convert(proto, tmp_path, opset=13)
    assert [path.name for path in tmp_path.iterdir()] == ["inter.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 12}, "opset must be 13 to 21, got 12"),
        ({"opset": 22}, "opset must be 13 to 21, got 22"),
        ({"opset": 17, "target": "ort"}, "^opset is for target 'qdq', got target 'ort'$"),
        ({"symmetric": True, "target": "ascend"}, "^symmetric is for target 'qdq', got target 'as"),
    ],
    ids=str,
)
def test_options_of_this_target(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert_qat_model(tmp_path / "absent.onnx", tmp_path / "n", **{"target": "qdq"} | options)
