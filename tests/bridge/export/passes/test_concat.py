"""Quantizers after a Concat: when they move before it, and that nothing else changes."""

import numpy as np
import onnx
import pytest

from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.conversions import convert_integers_first
from tests.support.graphs.text import model, save

ARRAYS = {
    "sx": np.float32(0.5),
    "zx": np.int8(-7),
    "w": np.random.default_rng(0).integers(-90, 90, (3, 4, 2, 2)).astype(np.int8),
    "sw": np.float32(0.25),
    "zw": np.int8(0),
    "sc": np.float32(8.0),
    "zc": np.int8(-3),
    "v": np.random.default_rng(1).integers(-90, 90, (2, 7, 1, 1)).astype(np.int8),
    "fixed": np.ones((1, 3, 8, 8), np.float32),
    "scs": np.full(7, 8.0, np.float32),
    "zcs": np.full(7, -3, np.int8),
}
UP = """
    xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx)
    wd = DequantizeLinear (w, sw, zw) [up] f = ConvTranspose <strides = [2, 2]> (xd, wd)
"""
JOINED = "c = Concat <axis = 1> (f, e) cq = QuantizeLinear (c, sc, zc)"
LAST = """
    cd = DequantizeLinear (cq, sc, zc) vd = DequantizeLinear (v, sw, zw) [last] y = Conv (cd, vd)
"""
E, Y = "float[1, 3, 8, 8] e", "float[N, 2, 8, 8] y"


def joined(body, *, inputs=f"float[1, 3, 4, 4] x, {E}", outputs=Y):
    return model(UP + body, inputs=inputs, outputs=outputs, **ARRAYS)


def inputs_of(proto):
    rng = np.random.default_rng(2)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input]
    return [rng.normal(0, 20, shape).astype(np.float32) for shape in shapes]


def converted(proto, folder):
    """The forms and the deploy model, whose outputs are equal to fake-quant's in every bit."""
    done = convert_integers_first(save(proto, folder), folder / "net")
    deploy = onnx.load(done.deploy)
    onnx.checker.check_model(deploy, full_check=True)
    x = inputs_of(proto)
    fake, other = (run_model(path, x) for path in (done.fake_quant, done.deploy))
    for name, value in fake.items():
        assert same_bits(value, other[name]), name
    return {layer.name: layer.form for layer in done.layers}, deploy


def test_what_is_joined_becomes_a_chain(tmp_path):
    forms, deploy = converted(joined(JOINED + LAST), tmp_path)
    assert forms == {"up": "QLinearConv", "last": "ConvInteger"}
    (node,) = (n for n in deploy.graph.node if n.op_type == "Concat" and len(n.output[0]) < 3)
    assert node.output[0] == "cq", "codes have the name of codes"


@pytest.mark.parametrize(
    "proto",
    [
        joined(JOINED + LAST, outputs=f"{Y}, float[N, 7, 8, 8] c"),
        joined(JOINED + LAST + "z = Relu (c)", outputs=f"{Y}, float[N, 7, 8, 8] z"),
        joined(JOINED.replace(", e)", ", fixed)") + LAST, inputs="float[1, 3, 4, 4] x"),
        joined(
            JOINED.replace("(c, sc, zc)", "<axis = 1> (c, scs, zcs)")
            + "cd = DequantizeLinear <axis = 1> (cq, scs, zcs) y = Relu (cd)",
            outputs="float[N, 7, 8, 8] y",
        ),
    ],
    ids=["the floats are an output", "another reader", "a constant part", "many scales"],
)
def test_what_stays_behind(tmp_path, proto):
    forms, deploy = converted(proto, tmp_path)
    assert forms["up"] == "ConvInteger"
    (node,) = (n for n in deploy.graph.node if n.op_type == "Concat" and "c" in n.output)
    assert "f" in node.input


def test_one_value_joined_with_itself(tmp_path):
    body = JOINED.replace("(f, e)", "(f, e, f)") + (
        "cd = DequantizeLinear (cq, sc, zc) y = Relu (cd)"
    )
    forms, _ = converted(joined(body, outputs="float[N, 11, 8, 8] y"), tmp_path)
    assert forms == {"up": "QLinearConv"}
