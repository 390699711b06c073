"""Gives every int8 weight its own zero point.

    weight_1 -> DequantizeLinear | QLinearConv | MatMulInteger <- zero_point
    weight_2 -> DequantizeLinear | QLinearConv | MatMulInteger <- the same zero_point
      =>
    weight_1 -> DequantizeLinear | QLinearConv | MatMulInteger <- zero_point_1
    weight_2 -> DequantizeLinear | QLinearConv | MatMulInteger <- zero_point_2

Reason: with session.x64quantprecision, which asks for precision on processors without VNNI, ONNX
Runtime rewrites int8 weights together with their zero points, and fails on a shared zero point.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import add_initializer
from bridge.export.graph.constants import constant

_OPERANDS = {"DequantizeLinear": (0, 2), "QLinearConv": (3, 5), "MatMulInteger": (1, 3)}
"""Indices of the weight and of its zero point among the inputs of an operator."""


def unshare_zero_points(graph: ir.Graph) -> None:
    """Give every int8 weight a zero point that no other node reads.

    Args:
        graph: the finished main graph; it and its subgraphs are changed.
    """
    for node in RecursiveGraphIterator(graph):
        weight, zero = _OPERANDS.get(node.op_type, (0, len(node.inputs)))
        shared = node.inputs[zero] if zero < len(node.inputs) else None
        if shared is None or constant(node.inputs[weight]) is None or len(shared.uses()) < 2:
            continue
        values = constant(shared)
        if values is not None and values.dtype == np.int8:
            name = f"{node.outputs[0].name}_zero_point_{len(graph.initializers)}"
            node.replace_input_with(zero, add_initializer(graph, name, values))
