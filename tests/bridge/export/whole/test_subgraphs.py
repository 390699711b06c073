"""Branches and loops: their layers are converted as all are, and no pair is left there to fuse."""

import numpy as np
import onnx_ir as ir
import pytest

from bridge import ascend_twin, convert_qat_model, explain
from bridge.export.graph.names import LAYER_KEY
from tests.support.bits import same_bits
from tests.support.graphs.text import model, save
from tests.support.runtime import LEVELS, run_at

RNG = np.random.default_rng(5)
SHAPE = "float[A, B, C, D]"
ARRAYS = {
    "sx": np.float32(0.05),
    "so": np.float32(0.1),
    "s2": np.float32(0.17),
    "zx": np.int8(3),
    "w": RNG.integers(-99, 99, (4, 4, 3, 3)).astype(np.int8),
    "v": RNG.integers(-99, 99, (4, 4, 3, 3)).astype(np.int8),
    "sw": (RNG.random(4) * 0.01 + 0.001).astype(np.float32),
    "zw": np.zeros(4, np.int8),
    "wf": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "lo": np.float32(0.0),
    "two": np.int64(2),
    "yes": np.array(True),
    "axes": np.int64([0]),
}
PICTURES = RNG.standard_normal((2, 4, 5, 5)).astype(np.float32)


def pair(name, value, scale="so"):
    return (
        f"{name}_q = QuantizeLinear ({value}, {scale}, zx) "
        f"{name} = DequantizeLinear ({name}_q, {scale}, zx) "
    )


def conv(name, value, weight):
    return f"[{name}] {name} = Conv <pads = [1, 1, 1, 1]> ({value}, {weight}) "


def layer(name, value, weight="w", *, paired=True):
    """A quantized convolution between pairs, which computes NAME."""
    read = pair(f"{name}_d", value) if paired else ""
    stored = f"{name}_w = DequantizeLinear <axis = 0> ({weight}, sw, zw) "
    operator = conv(f"{name}_c", f"{name}_d" if paired else value, f"{name}_w")
    return read + stored + operator + pair(name, f"{name}_c", "s2")


def floats(name, value):
    """A convolution of a float weight between pairs."""
    operator = conv(f"{name}_c", f"{name}_d", "wf")
    return pair(f"{name}_d", value) + operator + pair(name, f"{name}_c", "s2")


def branches(name, then, other, *, cond="c"):
    dynamic = f"{name}_top = ReduceMax <keepdims = 0> (x) c = Greater ({name}_top, lo) "
    return (dynamic if cond == "c" else "") + (
        f"{name} = If ({cond}) <then_branch = {name}_then () => ({SHAPE} {name}_t) {{ {then} }}, "
        f"else_branch = {name}_else () => ({SHAPE} {name}_e) {{ {other} }}> "
    )


def loop(name, value, body):
    return (
        f"{name} = Loop (two, yes, {value}) <body = {name}_body (int64 i, bool go, {SHAPE} v_) => "
        f"(bool on, {SHAPE} {name}_l) {{ on = Identity (go) {body} }}> "
    )


def scan(name, value, body):
    return (
        f"last, {name} = Scan <num_scan_inputs = 1, body = {name}_body "
        f"(float st, float[4, 5, 5] v_) => (float sn, float[4, 5, 5] r) {{ sn = Identity (st) "
        f"n = Unsqueeze (v_, axes) {body} r = Squeeze ({name}_l, axes) }}> (lo, {value}) "
    )


NEG = "y_e = Neg (xd) "
X = pair("xd", "x", "sx")
BODIES = {
    "a branch": X + branches("y", layer("y_t", "xd"), NEG),
    "a branch that is always taken": X + branches("y", layer("y_t", "xd"), NEG, cond="yes"),
    "two branches": X + branches("y", layer("y_t", "xd"), layer("y_e", "xd", "v")),
    "branches of one weight": X + branches("y", layer("y_t", "xd"), layer("y_e", "xd")),
    "a branch in a branch": X
    + branches("y", branches("y_t", layer("y_t_t", "xd"), "y_t_e = Abs (x)", cond="yes"), NEG),
    "a quantizer outside": "q = QuantizeLinear (x, so, zx) "
    + branches(
        "y",
        "d = DequantizeLinear (q, so, zx) " + layer("y_t", "d", paired=False),
        "y_e = DequantizeLinear (q, so, zx) ",
    ),
    "a layer that only a branch quantizes": X
    + "wd = DequantizeLinear <axis = 0> (v, sw, zw) "
    + conv("m", "xd", "wd")
    + branches("y", layer("y_t", "m"), NEG),
    "a loop": X + loop("y", "xd", layer("y_l", "v_")),
    "a scan": X + scan("y", "xd", layer("y_l", "n")),
    "a branch in a loop": X
    + loop("y", "xd", branches("y_l", layer("y_l_t", "v_"), "y_l_e = Neg (v_) ")),
    "a layer after a branch": X
    + branches("m", layer("m_t", "xd"), "m_e = Neg (xd) ", cond="yes")
    + layer("y", "m", "v"),
}
UNQUANTIZED = {
    "in a branch": branches("m", floats("m_t", "xd"), floats("m_e", "xd")),
    "in a branch that is always taken": branches(
        "m", floats("m_t", "xd"), "m_e = Neg (xd)", cond="yes"
    ),
    "in a loop": loop("m", "xd", floats("m_l", "v_")),
    "after a branch that ends in a pair": branches(
        "u", pair("u_t", "xd"), "u_e = Neg (xd) ", cond="yes"
    )
    + conv("m_c", "u", "wf")
    + pair("m", "m_c", "s2"),
}


def converted(body, folder, **options):
    proto = model(body, inputs="float[N, 4, 5, 5] x", outputs=f"{SHAPE} y", **ARRAYS)
    return convert_qat_model(save(proto, folder), folder / "net", **options)


def nodes(path):
    return ir.traversal.RecursiveGraphIterator(ir.load(path).graph)


def assert_one_step(done, step=0.17):
    """Equal bits at every level; at level off within one step of the source."""
    wanted = run_at(done.source, PICTURES, "DISABLE_ALL")
    assert len(np.unique(wanted)) > 5
    assert np.abs(run_at(done.fake_quant, PICTURES, "DISABLE_ALL") - wanted).max() < step * 1.01
    for level in LEVELS:
        expected = run_at(done.fake_quant, PICTURES, level)
        assert same_bits(run_at(done.deploy, PICTURES, level), expected), level
        assert np.abs(expected - wanted).max() < step * 1.01, level


@pytest.mark.parametrize("options", [{}, {"vnni": True}, {"max_ulps": 0}], ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_layers_inside_have_the_bits(tmp_path, name, options):
    done = converted(BODIES[name], tmp_path, **options)
    assert not done.left_in_float
    assert len({one.name for one in done.layers}) == BODIES[name].count("Conv <")
    assert_one_step(done)


@pytest.mark.parametrize("where", UNQUANTIZED)
def test_a_float_convolution_between_pairs_stays_float(tmp_path, where):
    """ONNX Runtime would quantize its float weight, in a branch that it puts outside, too."""
    done = converted(X + UNQUANTIZED[where] + layer("y", "m"), tmp_path)
    assert done.left_in_float
    assert_one_step(done)


@pytest.mark.parametrize("name", BODIES)
def test_other_targets(tmp_path, name):
    done = converted(BODIES[name], tmp_path, target="qdq", opset=19)
    wanted, found = (run_at(path, PICTURES, "DISABLE_ALL") for path in (done.source, done.deploy))
    assert np.abs(found - wanted).max() < 0.172
    kept = {node.metadata_props.get(LAYER_KEY) for node in nodes(done.deploy)}
    assert kept >= {one.name for one in done.layers}
    if name == "branches of one weight":
        return
    done = converted(BODIES[name], tmp_path, target="ascend")
    assert not {"QuantizeLinear", "DequantizeLinear"} & {
        node.op_type for node in nodes(done.deploy)
    }
    twin = ascend_twin(done.deploy, tmp_path / "twin.onnx")
    for level in LEVELS:
        assert same_bits(run_at(twin, PICTURES, level), run_at(done.fake_quant, PICTURES, level)), (
            level
        )


@pytest.mark.parametrize("name", BODIES)
def test_mode_fast_and_the_report(tmp_path, name):
    done = converted(BODIES[name], tmp_path, mode="fast", data=[PICTURES])
    for level in LEVELS:
        expected = run_at(done.fake_quant, PICTURES, level)
        assert same_bits(run_at(done.deploy, PICTURES, level), expected), level
    assert {row.name for row in explain(done).layers} >= {one.name for one in done.layers}


def test_opset_13_inside_too(tmp_path):
    body = BODIES["a branch"] + " yn = Identity (y)"
    proto = model(body, inputs="float[N, 4, 5, 5] x", outputs=f"{SHAPE} y", opset=14, **ARRAYS)
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net", target="qdq", opset=13)
    found = run_at(done.deploy, PICTURES, "DISABLE_ALL")
    assert np.abs(found - run_at(done.source, PICTURES, "DISABLE_ALL")).max() < 0.172


def test_branches_of_one_weight_store_it_once(tmp_path):
    done = converted(BODIES["branches of one weight"], tmp_path)
    stored = [
        value.const_value
        for graph in ir.load(done.deploy).graphs()
        for value in graph.initializers.values()
    ]
    assert [tensor.shape.numpy() for tensor in stored if tensor.size == ARRAYS["w"].size] == [
        ARRAYS["w"].shape
    ]


def test_nothing_unused_stays_inside(tmp_path):
    body = BODIES["a branch"].replace("(w, sw", "(k, sw")
    body = body.replace(
        "{ y_t_d_q", "{ k = Constant <value = int8[4, 4, 1, 1] {KERNEL}> () y_t_d_q"
    )
    body = body.replace("KERNEL", ", ".join(map(str, range(1, 17)))).replace(
        "pads = [1, 1, 1, 1]", "group = 1"
    )
    done = converted(body, tmp_path)
    for path in (done.fake_quant, done.deploy):
        for graph in ir.load(path).graphs():
            assert all(value.uses() for value in graph.initializers.values()), path
