"""Converts int8 activations to uint8.

    x -> QuantizeLinear <zero_point = int8 z> -> DequantizeLinear <int8 z> -> y
      =>
    x -> QuantizeLinear <zero_point = uint8 z + 128> -> DequantizeLinear <uint8 z + 128> -> y

Every code is 128 larger, so y is the same in every bit.

Reason: ONNX Runtime's integer kernels take uint8 activations, and a QLinearConv has the same data
type at its input and output.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import add_initializer, graph_of
from bridge.export.graph.constants import Array, constant
from bridge.export.graph.operators import zero_point_input
from bridge.export.read.zero_points import UINT8_SHIFT


def to_uint8_codes(graph: ir.Graph) -> None:
    """Convert int8 quantizers whose only consumers are DequantizeLinear nodes to uint8.

    Args:
        graph: the main graph of a QDQ model; it and its subgraphs are changed.
    """
    for node in list(RecursiveGraphIterator(graph)):
        if node.op_type != "QuantizeLinear" or constant(node.inputs[0]) is not None:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        pair = [node, *readers]
        only_read = all(reader.op_type == "DequantizeLinear" for reader in readers)
        plain = all(set(one.attributes) <= {"axis"} for one in pair)
        if not only_read or not plain or node.outputs[0].is_graph_output():
            continue
        zeros = [_signed_zero(one) for one in pair]
        if all(zero is not None for zero in zeros):
            for one, zero in zip(pair, zeros, strict=True):
                _set_zero_point(one, np.asarray(zero, np.int16) + UINT8_SHIFT)
            node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def _signed_zero(node: ir.Node) -> Array | None:
    """Return a node's zero point, a scalar or (channels,); None if it is not a constant int8."""
    zero = constant(zero_point_input(node))
    if zero is None or zero.dtype != np.int8:
        return None
    return zero.reshape(()) if zero.size == 1 else zero


def _set_zero_point(node: ir.Node, zero_point: Array) -> None:
    name = f"{node.outputs[0].name}_zero_point"
    node.replace_input_with(2, add_initializer(graph_of(node), name, zero_point.astype(np.uint8)))
