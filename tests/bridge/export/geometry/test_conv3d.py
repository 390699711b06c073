"""3-D convolutions as 2-D ones: their geometry and their bits; and pools before quantizers."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bridge.export.geometry.conv3d import as_conv2d, can_be_conv2d
from bridge.export.pipeline import convert_model
from bridge.export.plan.costs import FLOAT, QLINEAR_2D
from bridge.export.plan.forms import ort_form
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.text import model, the_layer

SX, SW, ZX = np.float32(0.5), np.float32(0.25), np.int8(-7)
SC, ZC = np.float32(8.0), np.int8(-3)
"""Powers of two, for which every form is proven without adjusting a rescale."""

GEOMETRIES = {
    "cube": ((4, 3, 3, 3, 3), {"pads": [1] * 6}),
    "one tap": ((4, 3, 1, 3, 2), {"strides": [1, 2, 1]}),
    "one tap, every second picture": ((4, 3, 1, 2, 2), {"strides": [2, 1, 1]}),
    "taps alone": ((4, 3, 3, 1, 1), {"pads": [2, 0, 0, 1, 0, 0]}),
    "all strides and dilations": (
        (4, 3, 2, 3, 2),
        {"strides": [3, 2, 1], "dilations": [2, 1, 2], "pads": [1, 0, 2, 0, 1, 1]},
    ),
    "groups as one": ((6, 1, 2, 2, 2), {"group": 3}),
    "groups": ((36, 6, 2, 2, 2), {"group": 3, "strides": [2, 1, 1], "pads": [1, 0, 0, 0, 0, 0]}),
}


def source(shape, attributes, *, pooled=False):
    """A convolution, with or without a pool, and a quantizer."""
    given = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    kernel = np.random.default_rng(0).integers(-90, 90, shape).astype(np.int8)
    pool = "r = MaxPool <kernel_shape = [2, 2, 2], strides = [2, 2, 2]> (f)"
    return model(
        "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx) "
        "wd = DequantizeLinear (w, sw, zw) "
        f"[conv] f = Conv <{given}> (xd, wd, b) {pool if pooled else 'r = Relu (f)'} "
        "rq = QuantizeLinear (r, sc, zc) y = DequantizeLinear (rq, sc, zc)",
        inputs=f"float[N, {shape[1] * attributes.get('group', 1)}, D, H, L] x",
        outputs="float[N, K, D2, H2, L2] y",
        w=kernel,
        sx=SX,
        zx=ZX,
        sw=SW,
        zw=np.int8(0),
        sc=SC,
        zc=ZC,
        b=(np.arange(shape[0]) - 1).astype(np.float32),
    )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_codes_are_those_of_fake_quant(name):
    shape, attributes = GEOMETRIES[name]
    made = ir.serde.deserialize_model(source(shape, attributes))
    channels = shape[1] * attributes.get("group", 1)
    x = np.random.default_rng(1).normal(0, 40, (2, channels, 5, 6, 7)).astype(np.float32)
    _, (layer,) = assert_fake_equals_deploy(made, x, form=QLINEAR_2D)
    assert layer.form == QLINEAR_2D


def test_few_channels_in_groups_are_one_group(tmp_path):
    few, many = (
        the_layer(source(*GEOMETRIES[name]), tmp_path) for name in ("groups as one", "groups")
    )
    assert (as_conv2d(few).groups, as_conv2d(few).weight.shape) == (1, (6, 6, 2, 2))
    assert np.count_nonzero(as_conv2d(few).weight) == np.count_nonzero(few.weight)
    assert (as_conv2d(many).groups, as_conv2d(many).weight.shape) == (3, (36, 12, 2, 2))


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 3, 3, 3, 3), {"auto_pad": '"SAME_UPPER"'}),
        ((32, 1, 2, 2, 2), {"group": 32}),
        ((4, 3, 1, 1, 1), {"group": 1}),
    ],
    ids=["padding by size", "many channels, depthwise", "one tap"],
)
def test_what_has_no_pictures(tmp_path, shape, attributes):
    assert not can_be_conv2d(the_layer(source(shape, attributes), tmp_path))


def test_pools_are_of_floats_in_onnx_runtime(tmp_path):
    made = ir.serde.deserialize_model(source((4, 3, 1, 1, 1), {"group": 1}, pooled=True))
    fake, deploy = convert_model(made, choose=lambda *_: ort_form(FLOAT))[:2]
    types = []
    for name, one in (("fake", fake), ("deploy", deploy)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / name)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(ir.to_proto(one).SerializeToString(), options)
        graph = onnx.load(tmp_path / name).graph
        (pool,) = (node for node in graph.node if node.op_type == "MaxPool")
        (before,) = (node for node in graph.node if pool.input[0] in node.output)
        types.append(before.op_type == "QuantizeLinear")
    assert types == [True, False]  # ONNX Runtime's own rewrite is what makes it slow
