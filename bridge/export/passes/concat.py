"""Moves a quantizer from the output of a Concat to its inputs.

    a -+-> Concat -> QuantizeLinear -> y_q
    b -+
      =>
    a -> QuantizeLinear -+-> Concat -> y_q
    b -> QuantizeLinear -+

Reason: a convolution before the Concat then ends in a quantizer, so that QLinearConv may compute it
(requantization.chains).
"""

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import graph_of
from bridge.export.graph.constants import constant
from bridge.export.graph.operators import zero_point_input


def quantize_before_concat(graph: ir.Graph) -> None:
    """Move per-tensor quantizers that are the only consumer of a Concat to its inputs.

    Args:
        graph: the main graph of a QDQ model; it and its subgraphs are changed.
    """
    for node in list(RecursiveGraphIterator(graph)):
        concat = _concat_before(node)
        if concat is None:
            continue
        codes = node.outputs[0]
        for i, value in enumerate(concat.inputs):
            part = _quantized(node, value, i)
            graph_of(concat).insert_before(concat, part)
            concat.replace_input_with(i, part.outputs[0])
        joined, name = concat.outputs[0], codes.name
        ir.convenience.replace_all_uses_with(codes, joined)
        graph_of(node).remove(node, safe=True)
        # The Concat now computes codes, so its output must not keep the name of the floats.
        joined.name, joined.type = name, part.outputs[0].type


def _quantized(node: ir.Node, value: ir.Value | None, index: int) -> ir.Node:
    """Copy a quantizer for one input of its Concat."""
    codes = node.outputs[0]
    shape = None if value is None else value.shape
    zero = constant(zero_point_input(node))
    made = codes.type if zero is None else ir.TensorType(ir.DataType.from_numpy(zero.dtype))
    output = ir.Value(name=f"{codes.name}/{index}", shape=shape, type=made)
    attributes = {key: attribute.value for key, attribute in node.attributes.items()}
    inputs, name = [value, *node.inputs[1:]], f"{node.name}/{index}"
    return ir.node("QuantizeLinear", inputs, attributes, name=name, outputs=[output])


def _concat_before(node: ir.Node) -> ir.Node | None:
    """Return the Concat whose only consumer is this per-tensor quantizer, None for other nodes."""
    if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
        return None
    value, concat = node.inputs[0], node.inputs[0].producer()
    if concat is None or concat.op_type != "Concat" or concat.graph is not node.graph:
        return None
    # A quantized Concat of constants is a constant, such as a weight.
    fixed = any(constant(part) is not None for part in concat.inputs)
    if fixed or value.is_graph_output() or len(value.uses()) > 1:
        return None
    qparams = [constant(source) for source in node.inputs[1:]]
    per_tensor = len(qparams) > 1 and all(q is not None and q.size == 1 for q in qparams)
    return concat if per_tensor and not node.outputs[0].is_graph_output() else None
