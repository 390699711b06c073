"""Quantized constants of float operators: no Q/DQ pair is left for a runtime to fuse."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bridge import ascend_twin, convert_qat_model
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import BIAS, GEMM, INTEGERS, batch, model, save
from tests.support.runtime import LEVELS, outputs_at

WEIGHT = np.random.default_rng(1).normal(0.0, 1.0, (2, 40)).astype(np.float32)
SCALES = np.linspace(0.01, 0.05, 40).astype(np.float32)
ONE_SCALE = {"sw": np.float32(0.01), "zw": np.int8(0)}
STORED = " vd = DequantizeLinear <axis: int = 1> (v, sv, zv) [float] z = MatMul (y, vd)"
DRAWN = " vq = QuantizeLinear <axis: int = 1> (v, sv, zv)" + STORED.replace("(v,", "(vq,")


def converted(body, folder, **arrays):
    zero = arrays.pop("zv", np.zeros(40, np.int8))
    proto = model(GEMM + body, outputs="float[N, 40] z", b=BIAS, sv=SCALES, zv=zero, **arrays)
    return convert_qat_model(save(proto, folder), folder / "net")


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(3), np.uint8(128)])
@pytest.mark.parametrize("body", [STORED, DRAWN], ids=["integers", "floats"])
def test_the_product_has_the_bits_of_floats(tmp_path, body, zero):
    info = np.iinfo(zero.dtype)
    integers = np.clip(np.rint(WEIGHT / SCALES) + int(zero), info.min, info.max)
    stored = integers.astype(zero.dtype) if body == STORED else WEIGHT
    done = converted(body, tmp_path, v=stored, zv=np.full(40, zero))
    assert [operator.name for operator in done.left_in_float] == ["float"]
    floats = (integers.astype(np.float32) - np.float32(zero)) * SCALES
    plain = model(GEMM + " [float] z = MatMul (y, v)", outputs="float[N, 40] z", b=BIAS, v=floats)
    (tmp_path / "plain").mkdir()
    expected = convert_qat_model(save(plain, tmp_path / "plain"), tmp_path / "plain" / "net")
    x = batch()
    z = run_model(expected.fake_quant, [x])["z"]
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["z"], z), path


def test_deploy_keeps_the_integers(tmp_path):
    done = converted(DRAWN, tmp_path, v=WEIGHT)
    graph = onnx.load(done.deploy).graph
    assert "DequantizeLinear" not in [node.op_type for node in graph.node]
    kinds = {(tuple(v.dims), v.data_type) for v in graph.initializer}
    assert ((2, 40), onnx.TensorProto.INT8) in kinds
    assert ((2, 40), onnx.TensorProto.FLOAT) not in kinds


def test_a_scale_that_no_layer_may_have_is_no_pair_either(tmp_path):
    """The arithmetic has the bits of DequantizeLinear, also for a scale of zero."""
    body = STORED.replace("sv", "s0")
    proto = model(
        GEMM + body,
        outputs="float[N, 2] z",
        b=BIAS,
        v=INTEGERS[:2],
        s0=np.zeros(2, np.float32),
        zv=np.zeros(2, np.int8),
    )
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    for path in (done.fake_quant, done.deploy):
        nodes = onnx.load(path).graph.node
        float_nodes = nodes if path == done.deploy else list(nodes)[-3:]
        assert "DequantizeLinear" not in [node.op_type for node in float_nodes]
        assert not run_model(path, [batch()])["z"].any()


def test_a_pair_that_is_an_output_stays_one(tmp_path):
    proto = model(
        GEMM + STORED,
        outputs="float[N, 2] z, float[2, 2] vd",
        b=BIAS,
        v=INTEGERS[:2],
        sv=SCALES[:2],
        zv=np.zeros(2, np.int8),
    )
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    values = run_model(done.deploy, [batch()])
    assert same_bits(values["vd"], INTEGERS[:2].astype(np.float32) * SCALES[:2])


def test_no_dequantized_value_is_read_by_a_float_operator(tmp_path):
    # ONNX Runtime would compute the Add of two such values on integers, and round differently.
    body = (
        GEMM.replace("y = Gemm", "m = Gemm")
        + "mq = QuantizeLinear (m, s2, zx) md = DequantizeLinear (mq, s2, zx) two = Add (md, md) "
        + "yq = QuantizeLinear (two, s2, zx) y = DequantizeLinear (yq, s2, zx)"
    )
    proto = model(body, b=BIAS, s2=np.float32(0.3))
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    for path in (done.fake_quant, done.deploy):
        (add,) = (n for n in onnx.load(path).graph.node if n.op_type == "Add" and "two" in n.output)
        producers = {out: n.op_type for n in onnx.load(path).graph.node for out in n.output}
        assert [producers[name] for name in add.input] == ["Mul", "Mul"]
        dequantized = run_model(path, [batch()], ["mq", add.input[0]])
        zero = -7 if dequantized["mq"].dtype == np.int8 else 121
        integers = dequantized["mq"].astype(np.float32) - np.float32(zero)
        assert same_bits(dequantized[add.input[0]], integers * np.float32(0.3))


KINDS = {
    name: getattr(TensorProto, name.upper())
    for name in ("int4", "uint4", "int8", "uint8", "int16", "uint16", "float8e4m3fn", "float8e5m2")
}
WAYS = {"tensor": "", "axis": "<axis = 1>", "blocks": "<axis = 1, block_size = 2>"}
OPERATORS = {
    "MatMul": ("z = MatMul (f, kd)", (64, 48), (1, 64), 2),
    "Gemm": ("z = Gemm <transB = 1> (f, kd)", (48, 64), (1, 64), 2),
    "Conv": ("z = Conv (f, kd)", (8, 6, 3, 3), (2, 6, 7, 7), 4),
    "ConvTranspose": ("z = ConvTranspose (f, kd)", (6, 8, 3, 3), (2, 6, 7, 7), 4),
    "Gather": ("i = Cast <to = 7> (f) e = Gather (kd, i) z = Add (e, e)", (9, 8), (3, 4), 3),
    "Einsum": ('z = Einsum <equation = "nk, km -> nm"> (f, kd)', (64, 48), (5, 64), 2),
    "LSTM": ("z = LSTM <hidden_size = 3> (f, kd, r)", (1, 12, 8), (3, 2, 8), 4),
    "GRU": ("z = GRU <hidden_size = 4> (f, kd, r)", (1, 12, 8), (3, 2, 8), 4),
}


def float_operator(name, kind, way):
    """A layer, and a float operator on f whose weight is stored in this form; and f's value."""
    rng = np.random.default_rng(3)
    operator, shape, given, rank = OPERATORS[name]
    size = {"tensor": (), "axis": shape[1:2], "blocks": (shape[0], shape[1] // 2, *shape[2:])}
    how = WAYS[way]
    if name == "MatMul" and way == "blocks":  # as MatMulNBits takes them
        size[way], how = (4, 48), "<axis = 0, block_size = 16>"
    if kind.startswith("float8"):
        values, zeros = rng.standard_normal(shape), np.zeros(size[way])
    else:
        low, high = (0, 16) if kind.startswith("u") else (-8, 8)
        values, zeros = rng.integers(low, high, shape), rng.integers(0, 8, size[way])
    proto = model(
        GEMM + f" kd = DequantizeLinear {how} (k, sk, zk) [float] " + operator,
        inputs=f"float[N, 3] x, float[{', '.join(map(str, given))}] f",
        outputs=f"float[N, 2] y, float[{', '.join('ABCD'[:rank])}] z",
        opset=21,
        b=BIAS,
        k=onnx.helper.make_tensor("k", KINDS[kind], shape, np.ravel(values)),
        zk=onnx.helper.make_tensor("zk", KINDS[kind], size[way], np.ravel(zeros)),
        r=rng.standard_normal((1, 12, 3 if name == "LSTM" else 4)).astype(np.float32),
        **ONE_SCALE,
        sk=(rng.random(size[way]) * 0.05 + 0.01).astype(np.float32),
    )
    floats = rng.integers(0, 9, given) if name == "Gather" else rng.standard_normal(given)
    return proto, {"x": batch(), "f": floats.astype(np.float32)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "target"), [*((name, "ort") for name in OPERATORS), ("MatMul", "ascend")]
)
def test_both_models_have_the_same_bits_at_every_level(tmp_path, name, way, target):
    """Both compute the weight when loaded, or both when run, so that they sum in one order."""
    for kind in KINDS if name == "MatMul" else ("int4", "uint8", "float8e5m2"):
        proto, feeds = float_operator(name, kind, way)
        done = convert_qat_model(save(proto, tmp_path), tmp_path / kind, target=target)
        deploy = done.deploy
        if target == "ascend":
            deploy = ascend_twin(deploy, tmp_path / "twin.onnx")
        (_, wanted) = outputs_at(done.source, feeds, "DISABLE_ALL")
        for level in LEVELS:
            (_, fake), (_, found) = (
                outputs_at(path, feeds, level) for path in (done.fake_quant, deploy)
            )
            assert same_bits(fake, found), (kind, level)
            assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max(), (kind, level)


@pytest.mark.parametrize("kind", KINDS)
def test_deploy_stores_what_the_file_stores(tmp_path, kind):
    proto, _ = float_operator("MatMul", kind, "blocks")
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    stored = [v for v in onnx.load(done.deploy).graph.initializer if np.prod(v.dims) == 64 * 48]
    assert [v.data_type for v in stored] == [KINDS[kind]]


def test_blocks_that_end_early(tmp_path):
    proto, feeds = float_operator("MatMul", "int8", "blocks")
    (node,) = (n for n in proto.graph.node if n.output[0] == "kd")
    (size,) = (a for a in node.attribute if a.name == "block_size")
    size.i = 20  # of 64
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    _, wanted = outputs_at(done.source, feeds, "DISABLE_ALL")
    for level in LEVELS:
        _, fake = outputs_at(done.fake_quant, feeds, level)
        assert same_bits(outputs_at(done.deploy, feeds, level)[1], fake), level
        assert np.abs(fake - wanted).max() < 1e-5 * np.abs(wanted).max(), level


@pytest.mark.parametrize("target", ["ort", "ascend"])
@pytest.mark.parametrize("kind", ["int4", "uint4", "float8e4m3fn"])
@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_the_file_quantizes(tmp_path, kind, way, target):
    """The Q/DQ pair of a constant is a constant, not an activation."""
    proto, feeds = float_operator("MatMul", kind, way)
    (place,) = (i for i, node in enumerate(proto.graph.node) if node.output[0] == "kd")
    dequantize = proto.graph.node[place]
    quantize = onnx.helper.make_node("QuantizeLinear", ["floats", "sk", "zk"], ["codes"])
    quantize.attribute.extend(dequantize.attribute)
    dequantize.input[0] = "codes"
    proto.graph.node.insert(place, quantize)
    weight = np.random.default_rng(2).normal(0, 0.2, (64, 48)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "floats"))
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net", target=target)
    deploy = done.deploy if target == "ort" else ascend_twin(done.deploy, tmp_path / "twin.onnx")
    _, wanted = outputs_at(done.source, feeds, "DISABLE_ALL")
    for level in LEVELS:
        _, fake = outputs_at(done.fake_quant, feeds, level)
        assert same_bits(outputs_at(deploy, feeds, level)[1], fake), level
        assert np.abs(fake - wanted).max() < 1e-5 * np.abs(wanted).max(), level
