"""Quantized operands of operators that stay in float.

ONNX Runtime fuses DequantizeLinear(constant) -> MatMul into kernels that round the other operand
too, quantizes the float weight of a convolution between pairs, and computes sums, products and
averages between pairs on integers with other roundings. So no DequantizeLinear may stand before
such an operator in a model whose bits are promised.

Both models get the same nodes: what is computed when a model runs, and what when it is loaded,
decides which kernel the operator gets, and kernels sum in orders of their own.
"""

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import add_initializer, graph_of
from bridge.export.graph.constants import Array, constant
from bridge.export.graph.names import LAYER_KEY
from bridge.export.passes.constant_pairs import run_constant_pair
from bridge.export.passes.dequantization import Dequantization, read_dequantization
from bridge.export.read.qdq import NotQuantizedError, read_quantized_constant


def expand_constant_dequantizers(graph: ir.Graph) -> None:
    """Replace the DequantizeLinear of every constant by nodes: (float32(integers) - zero) * scale.

    The integers stay in the file.

    Args:
        graph: after all layers were written and unused nodes removed; those inside it count.
    """
    _write_constants(graph, keep_integers=True)


def fold_constant_dequantizers(graph: ir.Graph) -> None:
    """Replace the DequantizeLinear of every constant by the floats that it computes.

    Args:
        graph: as expand_constant_dequantizers'.
    """
    _write_constants(graph, keep_integers=False)


def _write_constants(graph: ir.Graph, *, keep_integers: bool) -> None:
    for node in list(RecursiveGraphIterator(graph)):
        one = read_dequantization(node)
        if one is None:
            continue
        codes, name = _stored_codes(one), node.outputs[0].name or ""
        # Blocks that end early have a scale an element.
        if codes is not None and keep_integers and one.scale.size <= max(codes.size // 2, 1):
            value = one.write(add_initializer(graph_of(node), f"{name}_integers", codes))
            _redirect(graph, node.outputs[0], value)
            continue
        opset = graph.opset_imports[""]
        values = run_constant_pair(one, opset) if codes is None else one.values(codes)
        if values is not None:  # no activation
            value = add_initializer(graph_of(node), f"{name}_value", values)
            _redirect(graph, node.outputs[0], value)


def expand_activation_dequantizers(graph: ir.Graph) -> None:
    """Write the dequantized inputs of operators that stay in float in plain arithmetic.

    What cannot be written so, as the scale is not constant, gets a Max of one operand behind it,
    which hands on what it gets and which no runtime fuses.

    Args:
        graph: after all layers and stored weights were written; those inside it count.
    """
    for node in list(RecursiveGraphIterator(graph)):
        if node.op_type != "DequantizeLinear":
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        inner = node.outputs[0].is_graph_output() and node.graph is not graph
        if not inner and all(LAYER_KEY in reader.metadata_props for reader in readers):
            continue
        one = read_dequantization(node)
        plain = one is not None and constant(one.codes) is None
        value = one.write(one.codes) if one is not None and plain else _fenced(node)
        _redirect(graph, node.outputs[0], value)


def _stored_codes(one: Dequantization) -> Array | None:
    """Return the codes that a node dequantizes, None if they are not constant."""
    stored = constant(one.codes)
    if stored is not None:
        return stored
    try:
        return read_quantized_constant(one.node)[0]
    except NotQuantizedError:
        return None


def _fenced(node: ir.Node) -> ir.Value:
    made = node.outputs[0]
    kept = ir.node("Max", [made], name=f"{made.name}/kept")
    kept.outputs[0].name = f"{kept.name}_output"
    kept.outputs[0].shape, kept.outputs[0].type = made.shape, made.type
    graph_of(node).insert_after(node, kept)
    return kept.outputs[0]


def _redirect(main: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let what reads a value, but for layers, which are written, read another.

    So does an output of a branch or a loop: a runtime may put the branch into the main graph.
    """
    for use in list(old.uses()):
        if LAYER_KEY not in use.node.metadata_props and use.node is not new.producer():
            use.node.replace_input_with(use.idx, new)
    owner = old.graph
    if owner is None or owner is main:
        return
    for i, output in enumerate(owner.outputs):
        if output is old:
            owner.outputs[i] = new
