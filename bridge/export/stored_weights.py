"""Quantized operands of operators that stay in float.

ONNX Runtime fuses DequantizeLinear(constant) -> MatMul into kernels that round the other operand
too, quantizes the float weight of a convolution between pairs, and computes sums, products and
averages between pairs on integers with other roundings. So no DequantizeLinear may stand before
such an operator in a model whose bits are promised.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, constant
from bridge.export.layer_names import LAYER_KEY
from bridge.export.pairs import NotQuantizedError, read_stored
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
            integers, scale, zero_point = read_stored(node)
        except NotQuantizedError:
            continue  # it is not, or not rightly, quantized; no layer has read it
        if integers.dtype not in _INTEGERS:
            continue
        name = node.outputs[0].name or ""
        if keep_integers:
            stored = add_initializer(owner, f"{name}_integers", integers)
            value = _write_nodes(owner, node, stored, scale, zero_point)
        else:
            centered = integers.astype(np.float32) - zero_point.astype(np.float32)
            value = add_initializer(owner, f"{name}_value", centered * scale)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        owner.remove(node, safe=True)


def write_float_inputs(graph: ir.Graph) -> None:
    """Write the dequantized inputs of operators that stay in float in plain arithmetic.

    (float32(x_q) - zero point) * scale has the bits of DequantizeLinear.

    Args:
        graph: after all layers and stored weights were written.
    """
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            continue
        uses = node.outputs[0].uses()
        readers = [use for use in uses if LAYER_KEY not in use.node.metadata_props]
        scale = constant(node.inputs[1])
        zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.int8)
        if not readers or scale is None or zero_point is None or scale.size != 1:
            continue
        value = _write_nodes(graph, node, node.inputs[0], scale, zero_point)
        for use in readers:
            use.node.replace_input_with(use.idx, value)


def _write_nodes(
    graph: ir.Graph, before: ir.Node, stored: ir.Value, scale: Array, zero_point: Array
) -> ir.Value:
    name = before.outputs[0].name or ""

    def op(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"{name}/{op_type}")
        node.outputs[0].name = f"{name}/{op_type}_output"
        graph.insert_before(before, node)
        return node.outputs[0]

    value = op("Cast", stored, to=ir.DataType.FLOAT)
    if zero_point.any():
        zero = add_initializer(graph, f"{name}_zero_point", zero_point.astype(np.float32))
        value = op("Sub", value, zero)
    return op("Mul", value, add_initializer(graph, f"{name}_scale", scale))
