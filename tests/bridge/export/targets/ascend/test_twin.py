"""The runnable twin of Ascend models: onnx.checker takes it, ONNX Runtime has the same bits."""

from functools import partial

import numpy as np
import onnx
import pytest

from bridge import ConversionError, ascend_twin, verify
from bridge.export.running.runtime import run_model
from bridge.export.targets.ascend.functions import DOMAIN
from tests.support import conversions
from tests.support.bits import same_bits
from tests.support.exporters import export
from tests.support.graphs.reading import attributes
from tests.support.graphs.text import (
    ADDED,
    BIAS,
    GEMM,
    PER_TENSOR,
    RECIPROCAL,
    SX,
    W,
    X,
    batch,
    convolution,
    model,
    save,
)
from tests.support.modules.nested import nested
from tests.support.runtime import LEVELS, outputs_at, run_at

convert = partial(conversions.convert, target="ascend")
PICTURE = np.random.default_rng(3).normal(0, 4, (2, 2, 3, 4)).astype(np.float32)
PRODUCT = (
    X + "v = QuantizeLinear (x, sv, zv) vd = DequantizeLinear (v, sv, zv) "
    "t = Transpose <perm = [1, 0]> (vd) q = QuantizeLinear (t, sv, zv) "
    "d = DequantizeLinear (q, sv, zv) [mul] y = MatMul (xd, d)"
)
OTHER = {"sv": np.float32(0.031), "zv": np.int8(21)}
PAIRED = ADDED + " aq = QuantizeLinear (y, sv, zv) [dq] z = DequantizeLinear (aq, sv, zv)"


def twin(done):
    path = ascend_twin(done.deploy, done.deploy.with_name("twin.onnx"))
    onnx.checker.check_model(path, full_check=True)
    return path


def assert_the_same(done, x):
    """The dialect, evaluated, fake-quant and the twin at every level."""
    expected = next(iter(run_model(done.deploy, [x]).values()))
    assert len(np.unique(expected)) > min(5, expected.size - 1)
    path = twin(done)
    for level in LEVELS:
        assert same_bits(run_at(done.fake_quant, x, level), expected), level
        assert same_bits(run_at(path, x, level), expected), level
    assert same_bits(next(iter(run_model(path, [x]).values())), expected)


MODELS = {
    "gemm": (model(GEMM, b=BIAS, **PER_TENSOR), batch(50)),
    "matmul and add": (model(ADDED, b=BIAS, **PER_TENSOR), batch(50)),
    "no bias": (model(GEMM.replace(", b)", ")"), **PER_TENSOR), batch(50)),
    "uint8": (model(GEMM, b=BIAS, zx=np.uint8(121), **PER_TENSOR), batch(50)),
    "conv": (convolution(), PICTURE),
    "transposed": (convolution("ConvTranspose"), PICTURE),
    "product": (model(PRODUCT, outputs="float[N, M] y", **OTHER), batch(50)),
    "product of vectors": (
        model(PRODUCT.replace("[1, 0]", "[0]"), inputs="float[3] x", outputs="float y", **OTHER),
        batch(1)[0],
    ),
    "pair": (model(PAIRED, outputs="float[N, 2] z", b=BIAS, **PER_TENSOR, **OTHER), batch(50)),
    "opset 13": (model(GEMM, b=BIAS, opset=13, **PER_TENSOR), batch(50)),
    "opset 21": (model(GEMM, b=BIAS, opset=21, **PER_TENSOR), batch(50)),
}


@pytest.mark.parametrize("name", MODELS)
def test_bits(tmp_path, name):
    proto, x = MODELS[name]
    assert_the_same(convert(proto, tmp_path), x)


def test_a_model_of_every_layer(tmp_path):
    net, x = nested()
    inter = export(net, (x,), tmp_path / "inter.onnx", "torchscript")
    done = convert(onnx.load(inter), tmp_path)
    assert_the_same(done, x.numpy())
    proof = verify(net, inter, done.fake_quant, twin(done), x)
    assert proof.first_fake_deploy is None
    assert all(layer.output_fake_deploy.count == 0 for layer in proof.layers)


def test_a_pair_around_float_operators_rounds_the_product_with_the_reciprocal(tmp_path):
    step = np.float32(0.07)
    halves = (np.arange(-120, 120) + 0.5).astype(np.float32) * step
    codes = np.rint(halves * (np.float32(1) / step))
    x = halves[np.rint(halves / step) != codes]
    assert x.size >= 3
    x = x[: x.size // 3 * 3].reshape(-1, 3)
    x[0, 0] = -1e-9  # codes have no negative zero
    two = "float[N, 3] xd, float[N, 2] y"
    numbers = PER_TENSOR | {"b": BIAS, "sx": step, "zx": np.int8(0)}
    done = convert(model(ADDED, outputs=two, **numbers), tmp_path)
    expected = (np.rint(x * (np.float32(1) / step)) + 0.0) * step
    assert not np.array_equal(expected, np.rint(x / step) * step)
    for path in (done.fake_quant, done.deploy, twin(done)):
        assert same_bits(run_model(path, [x])["xd"], expected), path


def test_nodes_and_what_they_hold(tmp_path):
    done = convert(convolution(), tmp_path)
    before, after = onnx.load(done.deploy).graph, onnx.load(twin(done)).graph
    assert [node.op_type for node in after.node] == [node.op_type for node in before.node]
    assert {node.domain for node in after.node} == {DOMAIN}
    quant, conv, dequant = after.node
    assert attributes(quant) == {"scale": RECIPROCAL, "offset": -7.0, "dst_type": b"INT8"}
    assert attributes(conv) == {"pads": [1, 1, 0, 0], "offset": -7.0}
    assert attributes(dequant) == {"dtype": 0}
    assert list(after.initializer) == list(before.initializer)
    assert all(a.input == b.input for a, b in zip(after.node, before.node, strict=True))


def test_operators_that_stay_in_float_stay_as_they_are(tmp_path):
    body = ADDED + " z = MatMul (x, v)"
    v = np.float32([[1, 2], [3, 4], [5, 6]])
    proto = model(body, outputs="float[N, 2] y, float[N, 2] z", b=BIAS, v=v, **PER_TENSOR)
    found = {
        node.output[0]: node.domain for node in onnx.load(twin(convert(proto, tmp_path))).graph.node
    }
    assert found["z"] == ""
    assert list(found.values()).count(DOMAIN) == 3


@pytest.mark.parametrize("scale", [2.0**-149, 3 * 2.0**-140, 2.0**-126, 1.0, 0.1, 2.0**110])
def test_a_scale_is_read_out_of_its_bits(tmp_path, scale):
    # Below 2^-126 float32 has no leading one.
    done = convert(model(GEMM, b=BIAS, **PER_TENSOR), tmp_path)
    bits = np.array([np.float32(scale)]).view(np.uint32).astype(np.uint64)
    proto = onnx.load(done.deploy)
    (tensor,) = (t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.UINT64)
    # Bits 32 to 39 are the weight's offset, which is not the scale's.
    name, high = tensor.name, np.uint64(5 << 32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(bits | high, name))
    onnx.save(proto, done.deploy)
    x = np.full((1, 3), SX, np.float32)
    (expected,) = run_model(done.deploy, [x]).values()
    assert same_bits(run_at(twin(done), x, "ENABLE_ALL"), expected)
    assert np.isfinite(expected).all()
    assert expected.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dst_type": "INT4"}, "AscendQuant '.*': dst_type must be 'INT8', got 'INT4'"),
        ({"dtype": 1}, "AscendDequant '.*': dtype must be 0, got 1"),
    ],
    ids=str,
)
def test_attributes_that_no_function_has(tmp_path, change, message):
    done = convert(model(GEMM, b=BIAS, **PER_TENSOR), tmp_path)
    proto = onnx.load(done.deploy)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name in change:
                value = change[attribute.name]
                attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, value))
    path = save(proto, tmp_path, "changed.onnx")
    with pytest.raises(ConversionError, match=message):
        ascend_twin(path, tmp_path / "twin.onnx")
    assert not (tmp_path / "twin.onnx").exists()


@pytest.mark.parametrize(
    ("op_type", "names", "message"),
    [
        ("AscendQuant", [], r"AscendQuant '.*' must have .*\['dst_type', 'offset', 'scale'\], got"),
        ("Gemm", ["transB"], r"Gemm '.*' must have .*\['offset'\], got \['offset', 'transB'\]"),
    ],
)
def test_attributes_with_other_names(tmp_path, op_type, names, message):
    done = convert(model(GEMM, b=BIAS, **PER_TENSOR), tmp_path)
    proto = onnx.load(done.deploy)
    (node,) = (node for node in proto.graph.node if node.op_type == op_type)
    del node.attribute[:]
    node.attribute.extend(onnx.helper.make_attribute(name, 1) for name in names)
    with pytest.raises(ConversionError, match=message):
        ascend_twin(save(proto, tmp_path, "changed.onnx"), tmp_path / "twin.onnx")


def test_a_model_that_is_not_in_the_dialect(tmp_path):
    path = save(model(X + W + "[fc] y = MatMul (xd, wd)"), tmp_path)
    with pytest.raises(ConversionError, match=r"inter.onnx has no AscendQuant"):
        ascend_twin(path, tmp_path / "twin.onnx")
    with pytest.raises(FileNotFoundError, match="no ONNX model at"):
        ascend_twin(tmp_path / "none.onnx", tmp_path / "twin.onnx")


SCALE = np.float32(0.3)
HALVES = ((np.arange(-200, 200) + 0.5) * float(SCALE)).astype(np.float32)
TIES = HALVES[np.rint(HALVES / SCALE) != np.rint(HALVES * (np.float32(1) / SCALE))]
MIDDLE = "r = Relu (xd) rq = QuantizeLinear (r, sv, zx) rd = DequantizeLinear (rq, sv, zx) "
LAST = W + "[fc] y = MatMul (rd, wd) "
BRANCH = (
    "lo = Constant <value = float {{0.0}}> () top = ReduceMax <keepdims = 0> (x) "
    "c = Greater (top, lo) y = If (c) <then_branch = t () => (float[N, 2] a) {{ {} }}, "
    "else_branch = e () => (float[N, 2] b) {{ b = Slice (x, from, to, from) }}> "
)
INNER = LAST.replace("y =", "a =")
AROUND = {
    "a float operator": (X + MIDDLE + LAST, ""),
    "several of each": (
        X + MIDDLE + LAST + "xe = DequantizeLinear (xq, sx, zx) z = Abs (xe) u = Neg (xd)",
        ", float[N, 3] z, float[N, 3] u",
    ),
    "a float operator and a layer": (
        X + LAST.replace("rd", "xd") + "z = Neg (xd)",
        ", float[N, 3] z",
    ),
    "codes that are an output": (X + MIDDLE + LAST, ", {0}[N, 3] xq, {0}[N, 3] rq"),
    "floats that are an output": (X + MIDDLE + LAST, ", float[N, 3] xd"),
    "around a branch": (X + BRANCH.format(MIDDLE + INNER) + "z = Neg (xd)", ", float[N, 3] z"),
    "in a branch": (BRANCH.format(X + MIDDLE + INNER), ""),
    "on both sides of a branch": (
        "xq = QuantizeLinear (x, sx, zx) "
        + BRANCH.format("xd = DequantizeLinear (xq, sx, zx) " + MIDDLE + INNER),
        "",
    ),
    "an axis": (
        X.replace("Linear", "Linear <axis = 1>") + MIDDLE.replace("zx", "zv") + LAST,
        "",
    ),
}


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-7), np.uint8(131)])
@pytest.mark.parametrize("name", AROUND)
def test_a_pair_rounds_as_the_device_does(tmp_path, name, zero):
    """Fake-quant multiplies by the reciprocal wherever the deploy model does."""
    body, outputs = AROUND[name]
    scale = np.array([0.3, 0.07, 0.3], np.float32) if name == "an axis" else SCALE
    numbers = {"sx": scale, "zx": np.full(scale.shape, zero)}
    proto = model(
        body,
        outputs="float[N, 2] y" + outputs.format(zero.dtype),
        opset=21,
        **numbers,
        **PER_TENSOR,
        sv=np.float32(0.11),
        zv=np.int8(3),
        **{"from": np.int64([0, 1]), "to": np.int64([9, 3])},
    )
    done = convert(proto, tmp_path)
    x = np.resize(TIES, (9, 3))
    expected = run_model(done.deploy, [x])
    path = twin(done)
    for level in LEVELS:
        for other in (done.fake_quant, path):
            found = outputs_at(other, x, level)
            for value, (output, wanted) in zip(found, expected.items(), strict=True):
                assert same_bits(value, wanted), (output, level, other)
