"""Mode "fast": what is rounded and what is not, and its bits against NumPy integers."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bridge import Tuning, adopt
from bridge.export.normalize.model import read_model
from bridge.export.pipeline import convert_model
from bridge.export.result.conversion import conversion_table
from bridge.export.running.runtime import run_model
from qatfunc.codes.add_factors import fit_factors
from tests.support.bits import same_bits
from tests.support.conversions import convert_integers_first
from tests.support.graphs.text import model, save
from tests.support.requantization.add_kernels import KERNELS

WEIGHTS = np.random.default_rng(0).integers(-90, 90, (3, 4, 4, 1, 1)).astype(np.int8)
SX, SC, SD = np.float32(0.05), np.float32(0.0421), np.float32(0.0532)
ARRAYS = {
    "sx": SX,
    "zx": np.int8(-7),
    **{f"w{i}": weight for i, weight in enumerate(WEIGHTS)},
    "sw": np.array([0.011, 0.0031, 0.0072, 0.00199], np.float32),
    "zw": np.zeros(4, np.int8),
    "sc": SC,
    "zc": np.int8(-11),
    "sd": SD,
    "zd": np.int8(-128),
    "lo": np.float32(-0.3),
    "hi": np.float32(2.0),
    "bias": np.ones((4, 1, 1), np.float32),
}
WIDE = {"sc": np.float32(0.0002), "zc": np.int16(3), "opset": 21}
OUTPUT = "float[N, 4, H2, L2] y"


def pair(x, to, scale="sx", zero="zx"):
    return f"""[{to}_q] {to}_q = QuantizeLinear ({x}, {scale}, {zero})
        [{to}_d] {to} = DequantizeLinear ({to}_q, {scale}, {zero})"""


def conv(x, to, i=0):
    return f"""[{to}_w] {to}_w = DequantizeLinear <axis: int = 0> (w{i}, sw, zw)
        [{to}] {to} = Conv ({x}, {to}_w)"""


START = pair("x", "xd") + conv("xd", "f")
END = pair("v", "vd", "sc", "zc") + conv("vd", "y", 2)
RESIDUAL = conv("xd", "g", 1) + "[add] s = Add (f, g) v = Relu (s)"


def network(between, *, end=END, outputs=OUTPUT, **options):
    given = {"inputs": "float[N, 4, H, L] x", "outputs": outputs, **ARRAYS, **options}
    return model(START + between + end, **given)


def picture(seed=2):
    return np.random.default_rng(seed).normal(0.0, 4.0, (2, 4, 6, 7)).astype(np.float32)


def convert(proto, folder, **options):
    given = {"mode": "fast", "data": [picture(1)], **options}
    return convert_integers_first(save(proto, folder), folder / "net", **given)


def assert_equal(done, x=None):
    x = picture() if x is None else x
    fake, deploy = (run_model(path, [x]) for path in (done.fake_quant, done.deploy))
    for name, value in fake.items():
        assert same_bits(value, deploy[name]), name
    return fake


def operators(done):
    nodes = onnx.load(done.deploy).graph.node
    return [node.op_type for node in nodes if node.op_type not in ("Cast", "Add", "Mul", "Sub")]


def layer(done, name):
    (found,) = (one for one in done.layers if one.name == name)
    return found


def codes(y, rounding):
    scale = np.float32(rounding.scale)
    return np.clip(np.rint(y / scale) + rounding.zero_point, -128, 127)


def test_a_residual_block_in_integers_and_its_bits(tmp_path):
    done = convert(network(RESIDUAL), tmp_path)
    assert [one.form for one in done.layers] == [
        "QLinearConv",
        "QLinearConv",
        "QLinearAdd",
        "ConvInteger",
    ]
    expected = ["QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearAdd", "Clip", "ConvInteger"]
    assert operators(done) == expected
    proto = onnx.load(done.deploy)
    onnx.checker.check_model(proto, full_check=True)
    assert {opset.domain for opset in proto.opset_import} == {"", "com.microsoft"}

    x, zeros = picture(), []
    x_q = np.clip(np.rint(x / SX) - 7, -128, 127).astype(np.int64) + 7
    operands = []
    for i, name in enumerate("fg"):
        one = layer(done, name)
        rescale = (SX * ARRAYS["sw"]) if one.adjusted is None else one.adjusted.adjusted
        sums = np.einsum("nchw,oc->nohw", x_q, WEIGHTS[i, :, :, 0, 0].astype(np.int64))
        y = sums.astype(np.float32) * rescale.reshape(-1, 1, 1)
        operands.append(codes(y, one.rounding) - one.rounding.zero_point)
        zeros.append(one.rounding.zero_point + 128)
    scales = [layer(done, name).rounding.scale / float(SC) for name in "fg"]
    factors = fit_factors(tuple(scales), tuple(zeros), -11 + 128)
    total = sum(float(f) * operand for f, operand in zip(factors, operands, strict=True))
    v = np.maximum(np.clip(np.rint(total) - 11, -128, 127), -11).astype(np.int64) + 11
    sums = np.einsum("nchw,oc->nohw", v, WEIGHTS[2, :, :, 0, 0].astype(np.int64))
    y = sums.astype(np.float32) * (SC * ARRAYS["sw"]).reshape(-1, 1, 1)
    assert same_bits(assert_equal(done, x)["y"], y.astype(np.float32))


def test_a_quantizer_that_reads_a_sum_keeps_its_numbers(tmp_path):
    rounding = layer(convert(network(RESIDUAL), tmp_path), "add").rounding
    assert (rounding.scale, rounding.zero_point, rounding.quantizers) == (SC, -11, 1)
    assert not rounding.widened


def test_what_no_quantizer_reads_has_the_range_of_data(tmp_path):
    done = convert(network(RESIDUAL), tmp_path)
    wider = convert(network(RESIDUAL), tmp_path, data=[picture(1), 3 * picture(5)])
    for name in "fg":
        small, large = (layer(one, name).rounding for one in (done, wider))
        assert small.quantizers == large.quantizers == 0
        assert large.scale > small.scale


def test_quantizers_of_two_ranges_become_one_that_holds_both(tmp_path):
    two = "v = Relu (f)" + pair("v", "ud", "sd", "zd") + conv("ud", "z", 1)
    done = convert(network(two, outputs=OUTPUT + ", float[N, 4, H3, L3] z"), tmp_path)
    rounding = layer(done, "f").rounding
    assert rounding.quantizers == 2
    low, high = float(SC) * (-128 + 11), float(SD) * 255
    assert rounding.scale == np.float32((high - low) / 255)
    assert rounding.zero_point == round(-low / rounding.scale) - 128
    assert layer(done, "f").form == "QLinearConv"
    assert layer(done, "y").scale_x == layer(done, "z").scale_x == rounding.scale
    assert_equal(done)


def test_a_bias_has_the_steps_of_the_joined_range(tmp_path):
    """Not those of the range that the file states: the scale of the input is another one."""
    bias = np.array([0.37, -1.3, 2.2, 0.011], np.float32)
    sums = {}
    for added in (np.zeros(4, np.float32), bias):
        second = conv("ud", "z", 1).replace("(ud, z_w)", "(ud, z_w, zb)")
        two = "v = Relu (f)" + pair("v", "ud", "sd", "zd") + second
        outputs = OUTPUT + ", float[N, 4, H3, L3] z"
        folder = tmp_path / f"{added.any()}"
        folder.mkdir()
        done = convert(network(two, outputs=outputs, zb=added), folder)
        step = np.float32(layer(done, "z").scale_x) * ARRAYS["sw"]
        z = assert_equal(done)["z"].swapaxes(1, -1)
        sums[added.any()] = np.rint(z / step)
        assert same_bits(z, sums[added.any()].astype(np.float32) * step)
    assert layer(done, "z").scale_x != SD
    assert np.array_equal(sums[True] - sums[False], np.broadcast_to(np.rint(bias / step), z.shape))


def test_a_layer_that_the_joined_range_makes_unfit_stays_in_float(tmp_path):
    """Its own scale of 0.03 times 3e38 is a float32; that of the other reader, 2, is too large."""
    second = conv("ud", "z", 1).replace("(w1, sw, zw)", "(w1, sh, zw)")
    two = "v = Relu (f)" + pair("v", "ud", "se", "zc") + second
    scales = {"sc": np.float32(2), "se": np.float32(0.03), "sh": np.full(4, 3e38, np.float32)}
    done = convert(network(two, outputs=OUTPUT + ", float[N, 4, H3, L3] z", **scales), tmp_path)
    assert layer(done, "y").scale_x == 2
    (left,) = done.left_in_float
    assert left.name == "z"
    assert left.reason.startswith("scale_x * scale_w must be positive and finite in float32, got 2")


def test_a_product_that_the_joined_range_makes_unfit_stays_in_float(tmp_path):
    scales = {"sc": np.float32(1e25), "se": np.float32(1e19), "zc": np.int8(0)}
    product = pair("f", "a", "se", "zc") + pair("xd", "b", "se", "zc") + "[z] z = MatMul (a, b)"
    two = "v = Identity (f)" + product
    proto = network(two, outputs=OUTPUT + ", float[N, 4, H3, L3] z", **scales)
    done = convert(proto, tmp_path, data=[picture(1)[..., :5, :5]])
    (left,) = done.left_in_float
    assert left.name == "z"
    assert left.reason.startswith("scale_x * scale_w must be positive and finite in float32")


def test_a_folded_norm_stays_the_layers_when_its_input_has_another_range(tmp_path):
    """Of two in a row the first is folded, and only the first."""
    ones = np.ones(4, np.float32)
    norms = """m = BatchNormalization (t, g1, ones, zeros, ones)
        z = BatchNormalization (m, g2, ones, zeros, ones)"""
    two = "v = Relu (f)" + pair("v", "ud", "sd", "zd") + conv("ud", "t", 1) + norms
    given = {"ones": ones, "zeros": 0 * ones, "g1": 2 * ones, "g2": 3 * ones}
    outputs = OUTPUT + ", float[N, 4, H3, L3] z"
    done = convert(network(two, outputs=outputs, **given), tmp_path, fold_batch_norm=True)
    assert layer(done, "t").scale_x == layer(done, "f").rounding.scale != SD
    assert layer(done, "t").form.endswith("BatchNorm folded")
    assert operators(done).count("BatchNormalization") == 1
    plain = convert(network(two, outputs=outputs, **given), tmp_path)
    z, other = assert_equal(done)["z"], assert_equal(plain)["z"]
    assert np.allclose(z, other, rtol=1e-5)  # folding rounds otherwise, by a few ulps


def test_a_range_that_holds_the_other_is_kept(tmp_path):
    two = "v = Relu (f)" + pair("v", "ud", "se", "zc") + conv("ud", "z", 1)
    outputs = OUTPUT + ", float[N, 4, H3, L3] z"
    done = convert(network(two, outputs=outputs, se=np.float32(0.03)), tmp_path)
    rounding = layer(done, "f").rounding
    assert (rounding.scale, rounding.zero_point, rounding.quantizers) == (SC, -11, 2)
    assert_equal(done)


JOINED = conv("xd", "g", 1) + "v = Concat <axis = {}> (f, g)"
POOLED = "c = MaxPool <kernel_shape = [1, 2], strides = [1, 1], pads = [0, 0, 0, 1]> ({})"


@pytest.mark.parametrize(
    ("between", "nodes"),
    [
        (JOINED.format(2), ["QLinearConv", "QLinearConv", "Concat"]),
        (
            conv("xd", "g", 1) + POOLED.format("f") + "v = Concat <axis = 2> (c, g)",
            ["QLinearConv", "MaxPool", "QLinearConv", "Concat"],
        ),
        (POOLED.format("f") + "v = Add (c, c)", ["QLinearConv", "MaxPool", "QLinearAdd"]),
        (
            conv("xd", "g", 1) + "l = Sigmoid (g) v = Concat <axis = 2> (l, f)",
            ["QLinearConv", "ConvInteger", "Sigmoid", "QuantizeLinear", "Concat"],
        ),
    ],
    ids=["a join", "a pool and a join", "a pool that is doubled", "a join with a float operator"],
)
def test_codes_pass_through(tmp_path, between, nodes):
    done = convert(network(between), tmp_path)
    first = operators(done).index("QLinearConv")
    assert operators(done)[first:-1] == nodes
    assert_equal(done)


def test_the_mean_of_a_layer_reads_codes(tmp_path):
    mean = "v = GlobalAveragePool (f)"
    done = convert(network(mean), tmp_path)
    assert layer(done, "f").form == "QLinearConv"
    assert layer(done, "f").rounding.quantizers == 0
    assert_equal(done)


@pytest.mark.parametrize(
    ("between", "options"),
    [
        ("e = Sigmoid (f) v = Add (e, f)", {}),
        ("v = Add (f, bias)", {}),
        (RESIDUAL, {"end": "y = Sigmoid (v)"}),
        (RESIDUAL, {"end": "y = Identity (v)"}),
        (RESIDUAL, WIDE),
        ("v = Relu (f)", WIDE),
    ],
    ids=[
        "a sum with a float operator",
        "a sum with a constant",
        "a sum that a float operator reads",
        "a sum that is the output",
        "a sum that 16 bits read",
        "a layer that 16 bits read",
    ],
)
def test_what_is_not_rounded(tmp_path, between, options):
    done = convert(network(between, **options), tmp_path)
    assert "QLinearAdd" not in operators(done)
    assert layer(done, "f").rounding is None
    y = assert_equal(done)["y"]
    exact = convert(network(between, **options), tmp_path, mode="exact", data=None)
    assert same_bits(assert_equal(exact)["y"], y)


@pytest.mark.parametrize("order", ["r = Relu (f)" + POOLED.format("r"), POOLED.format("f")])
def test_a_chain_is_as_in_mode_exact(tmp_path, order):
    proto = network(order + "v = Relu (c)")
    (tmp_path / "exact").mkdir()
    fast, exact = (
        convert(proto, tmp_path),
        convert(proto, tmp_path / "exact", mode="exact", data=None),
    )
    assert layer(fast, "f").rounding.quantizers == 1
    assert [one.form for one in fast.layers] == [one.form for one in exact.layers]
    assert same_bits(assert_equal(fast)["y"], assert_equal(exact)["y"])


NARROW = {"zc": np.int8(-128), "sc": np.float32(0.004)}
"""A quantizer that clamps to [0, 1.02]."""


@pytest.mark.parametrize(
    "between",
    [
        "v = Identity (f) z = Identity (f)",
        "v = Identity (f) z = Tanh (f)",
        "v = Relu (f) z = Sqrt (v)",
        POOLED.format("f") + "v = Relu (c) z = Neg (c)",
        JOINED.format(2) + "z = Exp (f)",
        JOINED.format(2) + "z = Softmax (v)",
        RESIDUAL + "z = Abs (v)",
        RESIDUAL + "z = Identity (s)",
        "[add] v = Add (f, f) z = Sigmoid (f)",
        "v = LeakyRelu (f) z = Ceil (v)",
    ],
)
def test_what_computes_in_float_reads_what_is_not_clamped(tmp_path, between):
    """z is as in mode "exact", though v is rounded to codes of a small range beside it."""
    given = {"outputs": OUTPUT + ", float[N, 4, H3, L3] z", **NARROW}
    (tmp_path / "exact").mkdir()
    exact = convert(network(between, **given), tmp_path / "exact", mode="exact", data=None)
    done = convert(network(between, **given), tmp_path)
    assert same_bits(assert_equal(done)["z"], assert_equal(exact)["z"])


def test_an_output_of_the_model_is_not_clamped(tmp_path):
    """A sum that is an output keeps its precision, and the layers it adds theirs."""
    done = convert(network(RESIDUAL, outputs=OUTPUT + ", float[N, 4, H1, L1] v"), tmp_path)
    assert [one.op for one in done.layers] == ["Conv"] * 3
    assert [one.rounding for one in done.layers] == [None] * 3
    (tmp_path / "exact").mkdir()
    given = {"outputs": OUTPUT + ", float[N, 4, H1, L1] v", "mode": "exact", "data": None}
    exact = convert(network(RESIDUAL, outputs=given.pop("outputs")), tmp_path / "exact", **given)
    v = assert_equal(done)["v"]
    assert same_bits(v, assert_equal(exact)["v"])
    assert v.max() > (127 + 11) * SC


@pytest.mark.parametrize(
    "between", ["z = AveragePool <kernel_shape = [1, 1]> (f) v = Identity (f)", "z = Add (f, f)"]
)
def test_sums_and_averages_read_the_range_of_data(tmp_path, between):
    """Codes that they share with a quantizer of a small range hold what data shows of theirs."""
    if "Add" in between:
        between += pair("z", "zq", "sd", "zc") + conv("zq", "u", 1) + "v = Identity (f)"
    output = "u" if "Add" in between else "z"
    given = {"outputs": f"{OUTPUT}, float[N, 4, H3, L3] {output}", **NARROW}
    done = convert(network(between, **given), tmp_path)
    rounding = layer(done, "f").rounding
    assert (rounding.quantizers, rounding.widened) == (1, True)
    table = conversion_table(done)
    assert table.rows[0][table.columns.index("output rounded to")].endswith(
        "as its reader and data"
    )
    assert rounding.scale * (-128 - rounding.zero_point) < -5
    assert rounding.scale * (127 - rounding.zero_point) > 5
    assert_equal(done)


def test_a_sum_of_far_scales_stays_in_float(tmp_path):
    done = convert(network(RESIDUAL, sc=np.float32(1e-4)), tmp_path)
    assert layer(done, "add").form == "float"
    assert layer(done, "add").rounding.scale == np.float32(1e-4)
    assert "QLinearAdd" not in operators(done)
    assert_equal(done)


def test_pairs_that_a_file_has_around_its_sums(tmp_path):
    paired = RESIDUAL.replace("(f, g)", "(fd, gd)")
    i = paired.index("[add]")
    both = pair("f", "fd", "sd", "zc") + pair("g", "gd", "sc", "zc")
    done = convert(network(paired[:i] + both + paired[i:]), tmp_path)
    assert layer(done, "add").form == "QLinearAdd"
    assert layer(done, "f").rounding.scale == SD
    assert_equal(done)


def test_a_leaky_relu_of_codes_and_its_bits(tmp_path):
    done = convert(network("v = LeakyRelu <alpha = 0.2> (f)"), tmp_path)
    leaky = layer(done, "v")
    assert (leaky.form, leaky.rounding.scale) == ("QLinearLeakyRelu", SC)
    x, scale = picture(), np.float32(layer(done, "f").rounding.scale)
    names = [n.input[0] for n in onnx.load(done.deploy).graph.node if n.op_type == leaky.form]
    f_q = run_model(done.deploy, [x], names)[names[0]].astype(np.float32)
    f = (f_q - (layer(done, "f").rounding.zero_point + 128)) * scale
    v = np.clip(np.rint(np.where(f < 0, f * np.float32(0.2), f) / SC) - 11, -128, 127)
    v_q = run_model(done.fake_quant, [x], ["vd_q"])["vd_q"]
    assert np.array_equal(v_q.astype(int) - 128, v)
    assert_equal(done)


def test_a_join_of_codes_leaves_other_readers_in_float(tmp_path):
    between = JOINED.format(2) + "e = Sigmoid (f)"
    done = convert(network(between, outputs=OUTPUT + ", float[N, 4, H1, L1] e"), tmp_path)
    assert layer(done, "f").rounding == layer(done, "g").rounding
    assert len(np.unique(assert_equal(done)["e"])) > 256


NORM = "n = BatchNormalization (g, gamma, beta, mean, var) s = Add (f, n) v = Relu (s)"
STATISTICS = {
    "gamma": np.array([1.5, -0.4, 0.8, 1.0], np.float32),
    "beta": np.array([0.2, 3.0, 0.0, -1.0], np.float32),
    "mean": np.array([-1.0, 0.7, 0.1, 0.0], np.float32),
    "var": np.array([0.3, 2.0, 1.0, 0.5], np.float32),
}
LATER = pair("y", "yd", "se", "ze") + conv("yd", "z", 1)
CONDITION = """
    m = ReduceMax <keepdims = 0> (v) c = Greater (m, lo)
    z = If (c) <
        then_branch = g1 () => (float[N, 4, H3, L3] t) { t = Sigmoid (v) },
        else_branch = g2 () => (float[N, 4, H3, L3] u) { u = Identity (s) }
    >
"""
TWO = OUTPUT + ", float[N, 4, H3, L3] z"
OTHERS = {
    "nothing adjusted": ({}, {"max_ulps": 0}),
    "a folded norm": (
        {"between": conv("xd", "g", 1) + NORM, **STATISTICS},
        {"fold_batch_norm": True},
    ),
    "a norm": (
        {"between": conv("xd", "g", 1) + NORM + " q = Sigmoid (g)"}
        | {"outputs": OUTPUT + ", float[N, 4, H3, L3] q", **STATISTICS},
        {},
    ),
    "16 bits later": (
        {"end": END + LATER, "outputs": "float[N, 4, H3, L3] z"}
        | {"se": np.float32(0.001), "ze": np.int16(0), "opset": 21},
        {},
    ),
    "a branch": ({"end": CONDITION + END, "outputs": TWO}, {}),
    "an added sum": ({"between": RESIDUAL.replace("v =", "r =") + "v = Add (r, f)"}, {}),
    "a sum with itself": ({"between": "v = Add (f, f)"}, {}),
    "a mean of the channels": (
        {"between": "m = GlobalAveragePool (f) v = Add (f, m)"},
        {},
    ),
    "a pool of a float operator": (
        {"between": "l = Sigmoid (f) " + POOLED.format("l") + "v = Concat <axis = 2> (l, c)"},
        {},
    ),
    "LeakyRelu and Clip": ({"between": "l = LeakyRelu <alpha = 0.2> (f) v = Clip (l, lo, hi)"}, {}),
    "LeakyRelu of a sum": (
        {"between": RESIDUAL.replace("v = Relu", "l = LeakyRelu") + "v = Add (l, f)"},
        {},
    ),
    "unsigned codes in the file": ({"zc": np.uint8(9)}, {}),
    "codes as an output": ({"outputs": OUTPUT + ", int8[N, 4, H3, L3] vd_q"}, {}),
}


ELEMENTWISE = ("Add", "LeakyRelu")
FOUND = {
    "nothing adjusted": ["Add"],
    "a folded norm": ["Add"],
    "16 bits later": ["Add"],
    "an added sum": ["Add", "Add"],
    "a sum with itself": ["Add"],
    "unsigned codes in the file": ["Add"],
    "LeakyRelu and Clip": ["LeakyRelu"],
    "LeakyRelu of a sum": ["Add", "LeakyRelu", "Add"],
}
"""What computes with codes there."""


@pytest.mark.parametrize("name", OTHERS)
def test_files_agree_in(tmp_path, name):
    given, options = OTHERS[name]
    done = convert(network(**{"between": RESIDUAL, **given}), tmp_path, **options)
    x = picture()
    fake, deploy = (run_model(path, [x]) for path in (done.fake_quant, done.deploy))
    for output, value in fake.items():
        assert value.dtype == deploy[output].dtype
        assert value.tobytes() == deploy[output].tobytes(), output
    found = [one.form.removeprefix("QLinear") for one in done.layers if one.op in ELEMENTWISE]
    assert found == FOUND.get(name, [])


def test_the_source_is_left_as_it_is(tmp_path):
    source = read_model(save(network(RESIDUAL), tmp_path))
    before = [str(node) for node in source.graph]
    convert_model(source, mode="fast", data=[picture()])
    assert [str(node) for node in source.graph] == before


def test_layers_behind_sums_are_timed_too(tmp_path):
    tuning = Tuning(input_shapes={"x": (2, 4, 6, 7)}, rounds=1)
    done = convert(network(RESIDUAL), tmp_path, tune=tuning)
    layers = [layer for layer in done.layers if layer.op == "Conv"]
    assert len(layers) > 2
    assert all(layer.seconds for layer in layers)
    assert_equal(done)


@pytest.mark.parametrize(
    "data",
    [
        [(picture(1),)],
        [{"x": picture(1)}],
        [torch.from_numpy(picture(1))],
        (part for part in [picture(1)]),
    ],
    ids=["a tuple", "a dict", "a tensor", "a generator"],
)
def test_forms_of_data(tmp_path, data):
    expected = [layer.rounding for layer in convert(network(RESIDUAL), tmp_path).layers]
    assert any(rounding is not None for rounding in expected)
    got = convert(network(RESIDUAL), tmp_path, data=data)
    assert [layer.rounding for layer in got.layers] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "quick"}, "mode must be 'exact' or 'fast', got 'quick'"),
        ({"target": "qdq"}, "mode 'fast' is for target 'ort', got target 'qdq'"),
        ({"data": None}, "mode 'fast' needs data: batches of inputs"),
        ({"mode": "exact"}, "data is for mode 'fast'"),
        ({"data": []}, "data has no batch"),
        ({"data": [(picture(), picture())]}, r"1 arrays for inputs \['x'\], got 2"),
        ({"data": [{"z": picture()}]}, r"for inputs \['x'\], got \['z'\]"),
        ({"data": [picture()[:, :2]]}, "a batch of data does not fit the model"),
        ({"data": [picture(), picture() * np.nan]}, "layer 'f' has NaN .* on batch 2 of data"),
    ],
)
def test_refuses(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert(network(RESIDUAL), tmp_path, **options)
    assert not (tmp_path / "net_deploy_model.onnx").exists()


def test_refuses_values_beyond_float32(tmp_path):
    with pytest.raises(ValueError, match="the output of layer 'f' is not finite on batch 1 of"):
        convert(network(RESIDUAL, sw=np.full(4, 3e37, np.float32)), tmp_path)


def test_a_layer_that_met_nan_between_layers(tmp_path):
    between = "n = Sqrt (f) v = Identity (n)"
    with pytest.raises(ValueError, match="layer 'y' has NaN in its input 'v' on batch 1 of data"):
        convert(network(between), tmp_path)


def test_one_nan_is_counted_as_one(tmp_path):
    x = picture()
    x[1, 2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="input 'x' on batch 1 of data: 1 values"):
        convert(network(RESIDUAL), tmp_path, data=[x])


def test_data_of_other_kinds(tmp_path):
    with pytest.raises(ValueError, match=r"the output of layer 'f' is empty on batch 1 of data"):
        convert(network(RESIDUAL), tmp_path, data=[picture()[:0]])
    with pytest.raises(TypeError, match=r"must have a dtype of NumPy, got torch.bfloat16"):
        convert(network(RESIDUAL), tmp_path, data=[torch.zeros(2, 4, 6, 7, dtype=torch.bfloat16)])


def test_infinite_data_saturates(tmp_path):
    done = convert(network(RESIDUAL), tmp_path, data=[picture(), picture() * np.inf])
    assert layer(done, "add").form == "QLinearAdd"
    assert_equal(done)


def test_sixteen_bits_at_an_older_opset(tmp_path):
    """Exporters write 16-bit quantizers at any opset; runtimes take them from 21 on."""
    older = WIDE | {"opset": 17}
    done = convert(network("v = Relu (f)", **older), tmp_path)
    assert onnx.load(done.deploy).opset_import[0].version == 21
    assert_equal(done)


def test_adopt_says_that_the_model_computes_something_else(tmp_path):
    done = convert(network(RESIDUAL), tmp_path)
    with pytest.raises(ValueError, match="mode 'fast' rounds differently from the model"):
        adopt(nn.Identity(), done)


def test_the_table_says_what_is_rounded_to(tmp_path):
    done = convert(network(RESIDUAL), tmp_path)
    table = conversion_table(done)
    assert table.title == "4 quantized layers, target ort, mode fast"
    cells = [row[table.columns.index("output rounded to")] for row in table.rows]
    assert [cell.split(", ")[-1] for cell in cells] == ["range of data"] * 2 + [
        "as its reader",
        "-",
    ]


def test_every_kernel_is_held_against_the_converted_sum(tmp_path):
    """The factors in the file are those with which all kernels agree."""
    done = convert(network(RESIDUAL), tmp_path)
    proto = onnx.load(done.deploy)
    numbers = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    (node,) = (n for n in proto.graph.node if n.op_type == "QLinearAdd")
    fa, za, fb, zb, one, zy = (numbers[node.input[i]] for i in (1, 2, 4, 5, 6, 7))
    assert one == 1
    results = {k: f((fa, fb), (int(za), int(zb)), int(zy)) for k, f in KERNELS.items()}
    assert len({result.tobytes() for result in results.values()}) == 1
