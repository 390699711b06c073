"""Keeps MaxPool in float before quantizers.

    x -> MaxPool -> (shape operators) -> QuantizeLinear -> y_q
      =>
    x -> MaxPool -> Max -> (shape operators) -> QuantizeLinear -> y_q

Max of one operand is the identity.

Reason: ONNX Runtime moves the QuantizeLinear before the MaxPool. That changes no bit, but its uint8
MaxPool takes several times as long as its float one.
"""

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import graph_of
from bridge.export.graph.constants import reshaper


def keep_max_pools_in_float(graph: ir.Graph) -> None:
    """Write a Max of one operand after each MaxPool whose output is quantized.

    Args:
        graph: main graph of a deploy model; it and its subgraphs are changed.
    """
    for node in list(RecursiveGraphIterator(graph)):
        # With a second output, Indices, the order matters: codes have ties that floats have not.
        # ONNX Runtime moves the quantizer in the fake-quant model as well, so both agree.
        if node.op_type != "MaxPool" or len(node.outputs) > 1:
            continue
        value = node.outputs[0]
        if not value.is_graph_output() and _is_quantized(value):
            users = list(value.uses())
            kept = ir.node("Max", [value], name=f"{node.name}/in_float")
            kept.outputs[0].name = f"{value.name}/in_float"
            kept.outputs[0].shape, kept.outputs[0].type = value.shape, value.type
            graph_of(node).insert_after(node, kept)
            for user in users:
                user.node.replace_input_with(user.idx, kept.outputs[0])


def _is_quantized(value: ir.Value) -> bool:
    """Whether a value is quantized, directly or after shape operators."""
    users = [use.node for use in value.uses()]
    return any(
        user.op_type == "QuantizeLinear"
        or (reshaper(user) is not None and _is_quantized(user.outputs[0]))
        for user in users
    )
