"""Graphs that grow by one operator at a time, and know the shapes of their values.

Every decision is drawn, so that a failure shrinks to the few nodes that cause it. Shapes are
inferred node by node; a node whose output would be empty, or too large to be quick, is not written.
"""

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from property_tests.strategies.modules import Draw
from tests.support.graphs.builders import Graph

_LARGEST = 4096
"""Elements of a value; what matters are windows and borders, not sizes."""
_SCALES = (2.0**-6, 0.02, 0.0117, 0.05)
_ZERO_POINTS = (-128, -128, 0, 3, -37, 127)


class Shaped(Graph):
    """A graph that knows the shapes of its values; steps return None where they do not fit."""

    def __init__(self, draw: Draw, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.draw, self.shapes = draw, dict(shapes)
        self.random = np.random.default_rng(draw(st.integers(0, 999)))

    def choose(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def sizes(self, count: int, *values: int) -> list[int]:
        return [self.choose(*values) for _ in range(count)]

    def write(self, op_type: str, *inputs: str, **attributes: Any) -> str | None:
        """Write a node if its output has a shape that is neither empty nor large."""
        if op_type != "ConvTranspose" and not self._holds_window(inputs[0], attributes):
            return None
        y = self.op(op_type, *inputs, **attributes)
        shape = self._inferred(self.nodes[-1])
        if shape is None or not 0 < np.prod(shape) <= _LARGEST:
            self.nodes.pop()
            return None
        self.shapes[y] = shape
        return y

    def _holds_window(self, x: str, attributes: dict[str, Any]) -> bool:
        """Whether a padded value holds a window; inference rounds a negative count to zero."""
        kernel = attributes.get("kernel_shape", [])
        n = len(kernel)
        dilations, pads = attributes.get("dilations", [1] * n), attributes.get("pads", [0] * 2 * n)
        sides = self.shapes[x][2 : 2 + n]
        return all(
            side + pads[i] + pads[n + i] > dilations[i] * (kernel[i] - 1)
            for i, side in enumerate(sides)
        )

    def quantized(self, x: str) -> str:
        """Write Q -> DQ."""
        scale, zero_point = self.choose(*_SCALES), np.int8(self.choose(*_ZERO_POINTS))
        y = self.pair(x, scale, zero_point)
        self.shapes[y] = self.shapes[x]
        return y

    def weight(self, shape: tuple[int, ...], axis: int | None, fan: float) -> str:
        """Write DQ of constant codes, with one scale or one a channel."""
        codes = self.random.integers(-128, 128, shape, np.int8)
        count = 1 if axis is None or self.choose(True, False) else shape[axis]
        scales = (self.random.uniform(0.5, 1.0, count) / 73 / np.sqrt(fan)).astype(np.float32)
        zeros = np.zeros(count, np.int8)
        numbers = (scales, zeros) if count > 1 else (scales[0], zeros[0])
        inputs = [self.constant(array) for array in (codes, *numbers)]
        y = self.op("DequantizeLinear", *inputs, axis=axis or 0)
        self.shapes[y] = shape
        return y

    def vector(self, count: int) -> str:
        return self.constant(self.random.normal(0, 0.3, count).astype(np.float32))

    def _inferred(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        known = [n for n in node.input if n in self.shapes]
        infos = [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, self.shapes[n]) for n in known
        ]
        constants = [c for c in self.constants if c.name in node.input]
        output = helper.make_empty_tensor_value_info(node.output[0])
        graph = helper.make_graph([node], "one", infos, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            return None
        dims = inferred.graph.output[0].type.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims)
