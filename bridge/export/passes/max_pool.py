"""MaxPool in float where its output is rounded to codes behind it.

ONNX Runtime moves a QuantizeLinear in front of a MaxPool, which changes no bit, and then pools
bytes by a generic loop that takes several times as long as its kernel for floats. A Max of one
operand, which hands on what it gets, keeps them apart.
"""

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import graph_of
from bridge.export.graph.constants import reshaper


def keep_max_pools_in_float(graph: ir.Graph) -> None:
    """Put a Max of one operand behind each MaxPool whose output goes into quantizers.

    Args:
        graph: of a deploy model; it is changed.
    """
    for node in list(RecursiveGraphIterator(graph)):
        # One with places of the maxima finds others among codes; fake-quant's are moved, too.
        if node.op_type != "MaxPool" or len(node.outputs) > 1:
            continue
        value = node.outputs[0]
        if not value.is_graph_output() and _is_rounded(value):
            users = list(value.uses())
            kept = ir.node("Max", [value], name=f"{node.name}/in_float")
            kept.outputs[0].name = f"{value.name}/in_float"
            kept.outputs[0].shape, kept.outputs[0].type = value.shape, value.type
            graph_of(node).insert_after(node, kept)
            for user in users:
                user.node.replace_input_with(user.idx, kept.outputs[0])


def _is_rounded(value: ir.Value) -> bool:
    """Whether a QuantizeLinear reads a value, through reshapes if need be."""
    users = [use.node for use in value.uses()]
    return any(
        user.op_type == "QuantizeLinear"
        or (reshaper(user) is not None and _is_rounded(user.outputs[0]))
        for user in users
    )
