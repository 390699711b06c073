"""Pools with ceil_mode: padding states the number of windows that are computed."""

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from bridge.export.normalize.ceil_mode import without_ceil_mode
from bridge.export.pipeline import convert_model
from tests.support.bits import assert_same_bits
from tests.support.conversions import forced
from tests.support.graphs.builders import Graph
from tests.support.runtime import LEVELS, outputs_at


def pool(op_type, shape, **attributes):
    node = helper.make_node(op_type, ["x"], ["y"], ceil_mode=1, **attributes)
    x = helper.make_tensor_value_info("x", 1, shape)
    graph = helper.make_graph([node], "g", [x], [helper.make_tensor_value_info("y", 1, None)])
    opsets = [helper.make_opsetid("", 20)]
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def run(model, x):
    return outputs_at(ir.to_proto(model).SerializeToString(), x, "DISABLE_ALL")[0]


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "include_pad"])
def test_restated_pools_compute_the_same(op_type):
    """Every small geometry whose last window starts in padding; inference then agrees."""
    more = {"count_include_pad": 1} if op_type == "include_pad" else {}
    name = "AveragePool" if more else op_type
    restated = 0
    for size, kernel, stride, before, after in product((1, 2, 5), (2, 3), (2, 3), (0, 1), (1, 2)):
        if after >= kernel or size + before + after < kernel:
            continue
        geometry = {"kernel_shape": [kernel], "strides": [stride], "pads": [before, after]}
        model = pool(name, [1, 2, size], **geometry, **more)
        stated = without_ceil_mode(model)
        x = np.random.default_rng(size).normal(size=(1, 2, size)).astype(np.float32)
        assert_same_bits(run(stated, x), run(model, x), str(geometry))
        if stated is not model:
            restated += 1
            assert stated.graph.node(0).attributes["ceil_mode"].value == 0
            assert model.graph.node(0).attributes["ceil_mode"].value == 1
    assert restated >= 3


def test_a_pool_that_inference_understands_stays():
    model = pool("MaxPool", [1, 2, 5], kernel_shape=[2], strides=[2])
    assert without_ceil_mode(model) is model
    model = pool("MaxPool", [1, 2, "n"], kernel_shape=[2], strides=[2], pads=[0, 1])
    assert without_ceil_mode(model) is model


def test_a_value_behind_such_a_pool_can_be_reshaped():
    """ONNX Runtime folds the Shape by which a transposed convolution's phases are interleaved."""
    graph = Graph()
    pads = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]}
    y = graph.op("MaxPool", "x", ceil_mode=1, **pads)
    w = np.random.default_rng(0).integers(-99, 99, (2, 3, 2, 2)).astype(np.int8)
    scale, zero = graph.constant(np.float32(0.02)), graph.constant(np.int8(0))
    for kernel in (w, w.transpose(1, 0, 2, 3)):
        y = graph.pair(y, 0.05, np.int8(-7))
        kernel = graph.op("DequantizeLinear", graph.constant(kernel), scale, zero)
        y = graph.op("ConvTranspose", y, kernel, strides=[2, 2], kernel_shape=[2, 2])
    model = graph.model(y, 4)
    for value, size in zip(model.graph.inputs, [(1, 2, 2, 4)], strict=True):
        value.shape = ir.Shape(size)
    x = np.random.default_rng(1).normal(size=(1, 2, 2, 4)).astype(np.float32)
    for form in ("QLinearConv", "ConvInteger"):
        fake, deploy, *_ = convert_model(model, choose=forced(form))
        written = [ir.to_proto(one).SerializeToString() for one in (fake, deploy)]
        for level in LEVELS:
            (expected,), (actual,) = (outputs_at(one, x, level) for one in written)
            assert_same_bits(actual, expected, f"{form} at {level}")
