"""Zero points."""

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import add_initializer
from bridge.export.graph.constants import constant

_OPERANDS = {"DequantizeLinear": (0, 2), "QLinearConv": (3, 5), "MatMulInteger": (1, 3)}
"""Which inputs of operators are a weight and its zero point."""


def unshare_zero_points(graph: ir.Graph) -> None:
    """Give every int8 weight a zero point that no other node reads.

    ONNX Runtime rewrites int8 weights with their zero points where its users ask for precision on
    processors without VNNI (session.x64quantprecision), and fails on a zero point of two weights.

    Args:
        graph: the finished main graph; those inside it count.
    """
    for node in RecursiveGraphIterator(graph):
        weight, zero = _OPERANDS.get(node.op_type, (0, len(node.inputs)))
        shared = node.inputs[zero] if zero < len(node.inputs) else None
        if shared is None or constant(node.inputs[weight]) is None or len(shared.uses()) < 2:
            continue
        numbers = constant(shared)
        if numbers is not None and numbers.dtype == np.int8:
            name = f"{node.outputs[0].name}_zero_point_{len(graph.initializers)}"
            node.replace_input_with(zero, add_initializer(graph, name, numbers))
