"""Quantizers before a Concat instead of behind it, which joins codes as well as values.

    a, b -> Concat -> QuantizeLinear     =     a, b -> QuantizeLinear each -> Concat

What ends in a Concat then ends in a quantizer, so that it can be a chain (bridge.export.chains).
"""

import onnx_ir as ir

from bridge.export.constants import constant


def quantize_before_concat(graph: ir.Graph) -> None:
    """Move quantizers of one scale that alone read a Concat to its inputs.

    Args:
        graph: the main graph of a QDQ model.
    """
    for node in list(graph):
        joint = _joint(node)
        if joint is None:
            continue
        codes = node.outputs[0]
        parts = []
        for i, value in enumerate(joint.inputs):
            name = f"{codes.name}/{i}"
            quantized = ir.Value(name=name, shape=None if value is None else value.shape)
            quantized.type = codes.type
            graph.insert_before(
                joint,
                ir.node(
                    "QuantizeLinear",
                    [value, *node.inputs[1:]],
                    {key: attribute.value for key, attribute in node.attributes.items()},
                    name=f"{node.name}/{i}",
                    outputs=[quantized],
                ),
            )
            parts.append(quantized)
        for i, part in enumerate(parts):
            joint.replace_input_with(i, part)
        joined, name = joint.outputs[0], codes.name
        ir.convenience.replace_all_uses_with(codes, joined)
        graph.remove(node, safe=True)
        # The name of the floats must not stand for codes.
        joined.name, joined.type = name, codes.type


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
