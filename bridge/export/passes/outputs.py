"""Outputs of the model that ONNX Runtime would round for a quantizer after them.

    y, an output -> Transpose | Reshape | MaxPool | ... -> QuantizeLinear

It moves the quantizer in front of y where one node alone reads y, and overlooks that y is an
output, which is rounded and clamped then. A Max of one operand, which computes nothing, keeps it
where it is.
"""

import onnx_ir as ir

_MOVED_PAST = frozenset(
    (*("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), "Slice", "Identity")
)
"""Operators that a quantizer may be moved past."""


def keep_outputs_unrounded(graph: ir.Graph) -> None:
    """Put a Max of one operand before quantizers that would be moved in front of an output.

    Args:
        graph: of a fake-quant or deploy model; it is changed.
    """
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is None or not _follows_output(value):
            continue
        kept = ir.node("Max", [value], name=f"{node.name}/unmoved")
        kept.outputs[0].name = f"{value.name}/{node.name}/unmoved"
        kept.outputs[0].shape, kept.outputs[0].type = value.shape, value.type
        graph.insert_before(node, kept)
        node.replace_input_with(0, kept.outputs[0])


def _follows_output(value: ir.Value) -> bool:
    """Whether a value is an output of the model that was only moved about."""
    producer = value.producer()
    while producer is not None and producer.op_type in _MOVED_PAST and producer.inputs[0]:
        value = producer.inputs[0]
        if value.is_graph_output():
            return True
        producer = value.producer()
    return False
