"""Quantized constants of operators that stay in float.

ONNX Runtime fuses DequantizeLinear(constant) -> MatMul into kernels that round the other operand
too, so such a pair may not stay one in a model whose bits are promised.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.errors import ConversionError
from bridge.export.reader import NotQuantizedError, read_stored
from bridge.export.scribe import add_initializer

_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32)


def write_stored_weights(graph: ir.Graph, *, keep_integers: bool) -> None:
    """Replace the DequantizeLinear of every constant by what it computes.

    Args:
        graph: after all layers were written and unused nodes removed; its subgraphs count.
        keep_integers: write (float32(integers) - zero point) * scale as nodes, which leaves the
            integers in the file; otherwise write the floats.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        owner = node.graph
        if node.op_type != "DequantizeLinear" or node.outputs[0].is_graph_output():
            continue
        if not isinstance(owner, ir.Graph):
            continue  # a function's body
        try:
            integers, scale, zero_point = read_stored(node, node.name or "")
        except (NotQuantizedError, ConversionError):
            continue  # it is not, or not rightly, quantized; no layer has read it
        if integers.dtype not in _INTEGERS:
            continue
        name = node.outputs[0].name or ""
        if keep_integers:
            value = _write_nodes(owner, node, integers, scale, zero_point)
        else:
            centered = integers.astype(np.float32) - zero_point.astype(np.float32)
            value = add_initializer(owner, f"{name}_value", centered * scale)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        owner.remove(node, safe=True)


def _write_nodes(
    graph: ir.Graph, before: ir.Node, integers: Array, scale: Array, zero_point: Array
) -> ir.Value:
    name = before.outputs[0].name or ""

    def op(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"{name}/{op_type}")
        node.outputs[0].name = f"{name}/{op_type}_output"
        graph.insert_before(before, node)
        return node.outputs[0]

    stored = add_initializer(graph, f"{name}_integers", integers)
    value = op("Cast", stored, to=ir.DataType.FLOAT)
    if zero_point.any():
        zero = add_initializer(graph, f"{name}_zero_point", zero_point.astype(np.float32))
        value = op("Sub", value, zero)
    return op("Mul", value, add_initializer(graph, f"{name}_scale", scale))
