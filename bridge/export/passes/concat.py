"""Quantizers before a Concat instead of behind it, which joins codes as well as values.

    a, b -> Concat -> QuantizeLinear     =     a, b -> QuantizeLinear each -> Concat

What ends in a Concat then ends in a quantizer, so that it can be a chain (requantization.chains).
"""

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import graph_of
from bridge.export.graph.constants import constant
from bridge.export.graph.operators import zero_point_input


def quantize_before_concat(graph: ir.Graph) -> None:
    """Move quantizers of one scale that alone read a Concat to its inputs.

    Args:
        graph: the main graph of a QDQ model; those inside it count.
    """
    for node in list(RecursiveGraphIterator(graph)):
        joint = _joint(node)
        if joint is None:
            continue
        codes = node.outputs[0]
        for i, value in enumerate(joint.inputs):
            part = _quantized(node, value, i)
            graph_of(joint).insert_before(joint, part)
            joint.replace_input_with(i, part.outputs[0])
        joined, name = joint.outputs[0], codes.name
        ir.convenience.replace_all_uses_with(codes, joined)
        graph_of(node).remove(node, safe=True)
        # The name of the floats must not stand for codes.
        joined.name, joined.type = name, part.outputs[0].type


def _quantized(node: ir.Node, value: ir.Value | None, index: int) -> ir.Node:
    """Return a quantizer like a node for one of the values that its Concat joins."""
    codes = node.outputs[0]
    shape = None if value is None else value.shape
    zero = constant(zero_point_input(node))
    made = codes.type if zero is None else ir.TensorType(ir.DataType.from_numpy(zero.dtype))
    output = ir.Value(name=f"{codes.name}/{index}", shape=shape, type=made)
    attributes = {key: attribute.value for key, attribute in node.attributes.items()}
    inputs, name = [value, *node.inputs[1:]], f"{node.name}/{index}"
    return ir.node("QuantizeLinear", inputs, attributes, name=name, outputs=[output])


def _joint(node: ir.Node) -> ir.Node | None:
    """Return the Concat that only a QuantizeLinear of one scale reads, None for other nodes."""
    if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
        return None
    value, joint = node.inputs[0], node.inputs[0].producer()
    if joint is None or joint.op_type != "Concat" or joint.graph is not node.graph:
        return None
    # A Concat of constants is one itself.
    fixed = any(constant(part) is not None for part in joint.inputs)
    if fixed or value.is_graph_output() or len(value.uses()) > 1:
        return None
    numbers = [constant(source) for source in node.inputs[1:]]
    one = len(numbers) > 1 and all(n is not None and n.size == 1 for n in numbers)
    return joint if one and not node.outputs[0].is_graph_output() else None
