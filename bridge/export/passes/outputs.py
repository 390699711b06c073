"""Keeps graph outputs in float that ONNX Runtime would quantize.

    y, a graph output -> Transpose | Reshape | MaxPool | ... -> QuantizeLinear
      =>
    y, a graph output -> Transpose | Reshape | MaxPool | ... -> Max -> QuantizeLinear

Max of one operand is the identity.

Reason: if y has one consumer, ONNX Runtime moves the quantizer before y, although y is also a graph
output, which would then be rounded and clamped.
"""

import onnx_ir as ir

_MOVED_PAST = frozenset(
    (*("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), "Slice", "Identity")
)
"""Operators that ONNX Runtime moves a quantizer before."""


def keep_outputs_unrounded(graph: ir.Graph) -> None:
    """Write a Max of one operand before quantizers that would be moved before a graph output.

    Args:
        graph: main graph of a fake-quant or deploy model; it is changed.
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
    """Whether a value is derived from a graph output by such operators only."""
    producer = value.producer()
    while producer is not None and producer.op_type in _MOVED_PAST and producer.inputs[0]:
        value = producer.inputs[0]
        if value.is_graph_output():
            return True
        producer = value.producer()
    return False
