"""Rewrites float transposed convolutions whose output_padding ONNX Runtime rejects.

    ConvTranspose <pads_end = p, output_padding = o> (x, weight), o >= stride
      =>
    ConvTranspose <pads_end = p', output_padding = o'> (x, weight, zeros appended), o' < stride

Reason: torch and ONNX allow an output_padding below the dilation, ONNX Runtime only below the
stride. geometry.output_padding states why both are equal.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.output_padding import FITTED_ATTRIBUTES, kernel_padding
from bridge.export.graph.builder import add_initializer
from bridge.export.graph.constants import constant, name_of
from bridge.export.graph.names import LAYER_KEY


def fit_output_padding(graph: ir.Graph) -> None:
    """Rewrite transposed convolutions so that ONNX Runtime accepts their output_padding.

    Args:
        graph: the main graph; it and its subgraphs are changed, except nodes of written layers.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        owner, weight = node.graph, node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type != "ConvTranspose" or weight is None or LAYER_KEY in node.metadata_props:
            continue
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        taps, attributes = kernel_padding(given)
        if attributes is given or not isinstance(owner, ir.Graph):
            continue
        for name in attributes.keys() & FITTED_ATTRIBUTES:
            node.attributes[name] = ir.AttrInt64s(name, attributes[name])
        if any(taps):
            node.replace_input_with(1, _padded(owner, node, weight, taps))


def _padded(graph: ir.Graph, node: ir.Node, weight: ir.Value, taps: Sequence[int]) -> ir.Value:
    """Append zeros to a weight: to its array if it is constant, else by a Pad."""
    stored, name = constant(weight), f"{name_of(node)}kernel_padding"
    if stored is not None:
        sides = [(0, 0), (0, 0), *((0, count) for count in taps)]
        return add_initializer(graph, name, np.pad(stored, sides))
    sizes = np.array([0] * (len(taps) + 4) + list(taps), np.int64)
    pad = ir.node("Pad", [weight, add_initializer(graph, f"{name}_pads", sizes)], name=name)
    pad.outputs[0].name = f"{name}_output"
    graph.insert_before(node, pad)
    return pad.outputs[0]
