"""Inter models built by hand: what the exporters write for QAT layers, within milliseconds.

    x -> (Pad ->) Q -> DQ ------------------\
    w -> (rows ->) Q -> DQ -> (rows back) -> operator -> y        rows: one output channel a row
    bias -----------------------------------/

An exporter takes seconds, so properties over thousands of layers run on these models;
test_exporters.py holds a sample of them against the real ones.
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from bridge.modules.weighted import QATLayer
from tests.support.modules.case import Case
from tests.support.modules.numbers import rows_of

OPSET = 20
_IR_VERSION = 10

Array = np.ndarray


class Graph:
    """Collects nodes and initializers; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: Array, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes)
        )
        return output

    def pair(self, x: str, scale: Any, zero_point: Array, axis: int = 0) -> str:
        """Write Q -> DQ."""
        numbers = self.constant(np.float32(scale)), self.constant(zero_point)
        q = self.op("QuantizeLinear", x, *numbers, axis=axis)
        return self.op("DequantizeLinear", q, *numbers, axis=axis)

    def model(self, output: str, rank: int, opset: int = OPSET) -> ir.Model:
        """Return the model that computes `output` from the input "x" of a rank."""
        sizes = [f"d{i}" for i in range(rank)]
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)
        y = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "main", [x], [y], self.constants)
        opsets = [helper.make_opsetid("", opset)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return ir.serde.deserialize_model(made)


def inter_model(case: Case) -> ir.Model:
    """Build the model of one layer."""
    graph = Graph()
    return graph.model(add_layer(graph, case, "x", "layer"), case.x.ndim)


def add_layer(graph: Graph, case: Case, x: str, name: str) -> str:
    """Write a layer with the constants its module exports."""
    layer = case.layer
    constants = layer._export_constants()
    integer = np.int8 if constants.bits_x <= 8 else np.int16
    zero_point = np.asarray(constants.zero_point_x, integer)
    if layer.operator.name == "linear":
        x = graph.pair(x, constants.scale_x, zero_point)
        return _linear(graph, case, x, name)
    geometry = _geometry(case)
    before, after = geometry.pop("outside")
    if any(before) or any(after):
        pads = np.array([0, 0, *before, 0, 0, *after], np.int64)
        x = graph.op("Pad", x, graph.constant(pads))
    x = graph.pair(x, constants.scale_x, zero_point)
    inputs = [x, _weight(graph, case, name), *_bias(graph, layer, name)]
    return graph.op("ConvTranspose" if layer.operator.transposed else "Conv", *inputs, **geometry)


def _linear(graph: Graph, case: Case, x: str, name: str) -> str:
    """Write Gemm for rank 2 with a bias, else MatMul and Add, as the exporters do."""
    weight, bias = _weight(graph, case, name), _bias(graph, case.layer, name)
    if case.x.ndim == 2 and (bias or not case.other_form):
        return graph.op("Gemm", x, weight, *bias, transB=1)
    y = graph.op("MatMul", x, graph.op("Transpose", weight, perm=[1, 0]))
    operands = [*bias, y] if case.other_form else [y, *bias]
    return graph.op("Add", *operands) if bias else y


def _geometry(case: Case) -> dict[str, Any]:
    """Return the operator's attributes, and the zeros that stand outside it."""
    layer: Any = case.layer
    nothing = [0] * layer.operator.spatial
    before, after, outside = list(nothing), list(nothing), (nothing, nothing)
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        before, after = [t // 2 for t in totals], [t - t // 2 for t in totals]
        if before != after:
            before, after, outside = nothing, nothing, (before, after)
    elif layer.padding != "valid":
        before = after = list(layer.padding)
    geometry = {
        "kernel_shape": layer.kernel_size,
        "strides": layer.stride,
        "dilations": layer.dilation,
        "group": layer.groups,
        "pads": [*before, *after],
        "outside": outside,
    }
    if layer.operator.transposed:
        geometry["output_padding"] = case.output_padding
    return geometry


def _weight(graph: Graph, case: Case, name: str) -> str:
    layer = case.layer
    scales, weight = layer._export_constants().scale_w, layer.weight.detach().numpy()
    groups, transposed = getattr(layer, "groups", 1), layer.operator.transposed
    zeros = np.zeros(len(scales), np.int8)
    if len(scales) > 1 and transposed and groups > 1:
        return _weight_by_rows(graph, case, f"{name}.weight", (scales, zeros))
    value = graph.constant(weight, f"{name}.weight")
    if len(scales) == 1:
        return graph.pair(value, scales[0], zeros[0])
    return graph.pair(value, scales, zeros, axis=1 if transposed else 0)


def _weight_by_rows(graph: Graph, case: Case, name: str, constants: tuple[Any, Array]) -> str:
    """Write Q -> DQ on rows: no axis of (in, out/groups, ...) holds (group, channel).

    The exporters fold the way to the rows, which is of constants, unless told otherwise.
    """
    layer: Any = case.layer
    total, per_group, *kernel = layer.weight.shape
    groups, perm = layer.groups, [0, 2, 1, *range(3, 3 + len(kernel))]
    to_rows = (groups, total // groups, per_group), (groups * per_group, total // groups)
    back = (groups, per_group, total // groups), (total, per_group)

    def moved(value: str, first: tuple[int, ...], last: tuple[int, ...]) -> str:
        shapes = [graph.constant(np.array([*s, *kernel], np.int64)) for s in (first, last)]
        split = graph.op("Reshape", value, shapes[0])
        return graph.op("Reshape", graph.op("Transpose", split, perm=perm), shapes[1])

    if case.other_form:
        rows = moved(graph.constant(layer.weight.detach().numpy(), name), *to_rows)
    else:
        rows = graph.constant(rows_of(layer), name)
    return moved(graph.pair(rows, *constants), *back)


def _bias(graph: Graph, layer: QATLayer, name: str) -> list[str]:
    if layer.bias is None:
        return []
    return [graph.constant(layer.bias.detach().numpy(), f"{name}.bias")]
