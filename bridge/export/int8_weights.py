"""int8 weights beside uint8 activations, for processors that sum their products in 32 bits.

ARM64 counts activations 128 lower and sums products of int8 by int8. Kernels there that have no dot
product, and the depthwise kernel on all processors, add two products in 16 bits. These hold every
pair of products but (-128)(-128) + (-128)(-128): the code 0 met twice by a weight of -128. So a
layer keeps int8 weights where no output channel has two of -128, and gets uint8 ones otherwise.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export import costs
from bridge.export.constants import constant
from bridge.export.layer import QuantizedLayer, channels_first
from bridge.export.scribe import add_initializer

_LOWEST = -128

_OPERANDS = {"DequantizeLinear": (0, 2), "QLinearConv": (3, 5), "MatMulInteger": (1, 3)}
"""Where operators have a weight and its zero point."""

_FORMS = (*costs.CHAINED, "MatMulInteger")
"""The forms that can have int8 weights."""


def may_be_int8(layer: QuantizedLayer) -> bool:
    """Whether no output channel of a layer has two weights of -128.

    Args:
        layer: as read.
    """
    rows = channels_first(layer.weight, layer.op, layer.groups)
    return bool((rows <= _LOWEST).sum(axis=1).max(initial=0) < 2)


def reason_for_bytes(layer: QuantizedLayer, form: str) -> str:
    """Say why a layer has uint8 weights where int8 ones are wanted.

    Args:
        layer: as read.
        form: the name of its form.
    Returns:
        the end of a reason; "" where the layer has int8 weights, or its form never has.
    """
    if form not in _FORMS or may_be_int8(layer):
        return ""
    return "; uint8 weights, as a channel has two of -128, which ARM64 sums wrongly in int8"


def separate_zero_points(graph: ir.Graph) -> None:
    """Give every int8 weight a zero point that no other node reads.

    ONNX Runtime rewrites int8 weights with their zero points where its users ask for precision on
    processors without VNNI (session.x64quantprecision), and fails on a zero point of two weights.

    Args:
        graph: the finished main graph; those inside it count.
    """
    for node in RecursiveGraphIterator(graph):
        weight, zero = _OPERANDS.get(node.op_type, (0, len(node.inputs)))
        shared = node.inputs[zero] if zero < len(node.inputs) else None
        if shared is None or constant(node.inputs[weight]) is None or len(shared.uses()) < 2:
            continue
        numbers = constant(shared)
        if numbers is not None and numbers.dtype == np.int8:
            name = f"{node.outputs[0].name}_zero_point_{len(graph.initializers)}"
            node.replace_input_with(zero, add_initializer(graph, name, numbers))
