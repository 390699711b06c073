"""Moves padding from convolutions to before quantizers with a zero point per channel.

    x -> QuantizeLinear -> DequantizeLinear -> Conv <pads = p> -> y
      =>
    x -> Pad <p> -> QuantizeLinear -> DequantizeLinear -> Conv <pads = 0> -> y

Reason: integer convolutions pad with one zero point, and here each channel has its own. The Pad
adds the float 0, which the quantizer turns into the zero point of its channel.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import add_initializer
from bridge.export.graph.operators import int_attribute
from bridge.export.read.channel_scales import has_padding
from bridge.export.read.qdq import NotQuantizedError, read_qparams


def pad_before_quantizers(graph: ir.Graph) -> None:
    """Write a Pad for the padding of convolutions whose input channels have several zero points.

    Args:
        graph: the main graph of a QDQ model; it and its subgraphs are changed.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        if node.op_type != "Conv" or not has_padding(node) or not isinstance(node.graph, ir.Graph):
            continue
        dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        pads = node.attributes.get("pads")
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or pads is None:
            continue
        quantize = dequantize.inputs[0].producer() if dequantize.inputs[0] is not None else None
        if quantize is None or not _has_several_zero_points(quantize, dequantize):
            continue
        _pad(node.graph, node, (quantize, dequantize), list(pads.as_ints()))


def _has_several_zero_points(quantize: ir.Node, dequantize: ir.Node) -> bool:
    """Whether two nodes are a Q/DQ pair whose zero points differ between channels."""
    if quantize.op_type != "QuantizeLinear" or quantize.inputs[0] is None:
        return False
    try:
        scale, zero_point = read_qparams(dequantize)
        first, zero = read_qparams(quantize)
    except NotQuantizedError:
        return False
    alike = np.array_equal(scale, first) and np.array_equal(zero_point, zero)
    axes = {int_attribute(one, "axis", 1) for one in (quantize, dequantize)}
    return alike and len(axes) == 1 and bool((zero_point != zero_point.ravel()[:1]).any())


def _pad(graph: ir.Graph, node: ir.Node, pair: tuple[ir.Node, ir.Node], pads: list[int]) -> None:
    half, name = len(pads) // 2, node.name or node.outputs[0].name
    sizes = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
    padding = ir.node(
        "Pad",
        [pair[0].inputs[0], add_initializer(graph, f"{name}_pads", sizes)],
        name=f"{name}/pad",
    )
    graph.insert_before(node, padding)
    value = padding.outputs[0]
    value.name, value.type = f"{name}/padded", ir.TensorType(ir.DataType.FLOAT)
    for one in pair:
        attributes = {key: attribute.value for key, attribute in one.attributes.items()}
        copied = ir.node(
            one.op_type, [value, *one.inputs[1:]], attributes, name=f"{name}/{one.op_type}"
        )
        copied.outputs[0].name = f"{name}/{one.op_type}_output"
        copied.outputs[0].type = one.outputs[0].type
        graph.insert_before(node, copied)
        value = copied.outputs[0]
    node.replace_input_with(0, value)
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    for one in pair[::-1]:
        if one.graph is not None and not any(v.uses() or v.is_graph_output() for v in one.outputs):
            one.graph.remove(one, safe=True)
