"""Quantized constants of operators that stay in float: no pair is left for a runtime to fuse."""

import numpy as np
import onnx
import pytest

from bridge import convert_qat_model
from bridge.export.runtime import run_model
from tests.bridge.graphs import BIAS, GEMM, INTEGERS, batch, model, same_bits, save

WEIGHT = np.random.default_rng(1).normal(0.0, 1.0, (2, 40)).astype(np.float32)
SCALES = np.linspace(0.01, 0.05, 40).astype(np.float32)
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
    """What stays in float has the bits of DequantizeLinear, for a scale of zero too."""
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
    # ONNX Runtime would compute the sum of two such values on integers, with roundings of its own.
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
