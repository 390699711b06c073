"""Replaces the DequantizeLinear of operands of operators that stay in float.

    constant q -> DequantizeLinear -> float operator
      =>
    constant q -> Cast -> Sub zero_point -> Mul scale -> float operator     (expand), or
    initializer (q - zero_point) * scale -> float operator                  (fold)

    activation q -> DequantizeLinear -> float operator
      =>
    activation q -> Cast -> Sub zero_point -> Mul scale -> float operator

Reason: ONNX Runtime fuses a DequantizeLinear with the operator after it, and the fused kernels
round differently. For MatMul with a constant they also quantize the other operand; for Conv between
Q/DQ pairs they quantize the float weight; Add, Mul and AveragePool between pairs become integer
operators. The models promise the same bits.

Fake-quant and deploy model get the same nodes here: whether an operand is constant decides which
kernel an operator gets, and kernels sum in different orders.
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
    """Replace the DequantizeLinear of every constant by (float32(q) - zero_point) * scale as nodes.

    The file keeps the integers, which take a quarter of the space.

    Args:
        graph: the main graph, when all layers are written and unused nodes removed; it and its
            subgraphs are changed.
    """
    _write_constants(graph, keep_integers=True)


def fold_constant_dequantizers(graph: ir.Graph) -> None:
    """Replace the DequantizeLinear of every constant by an initializer of the floats.

    Args:
        graph: as in expand_constant_dequantizers.
    """
    _write_constants(graph, keep_integers=False)


def _write_constants(graph: ir.Graph, *, keep_integers: bool) -> None:
    for node in list(RecursiveGraphIterator(graph)):
        one = read_dequantization(node)
        if one is None:
            continue
        codes, name = _stored_codes(one), node.outputs[0].name or ""
        # With an incomplete last block, `scale` has one value per element.
        if codes is not None and keep_integers and one.scale.size <= max(codes.size // 2, 1):
            value = one.write(add_initializer(graph_of(node), f"{name}_integers", codes))
            _redirect(graph, node.outputs[0], value)
            continue
        opset = graph.opset_imports[""]
        values = run_constant_pair(one, opset) if codes is None else one.values(codes)
        if values is not None:  # not an activation
            value = add_initializer(graph_of(node), f"{name}_value", values)
            _redirect(graph, node.outputs[0], value)


def expand_activation_dequantizers(graph: ir.Graph) -> None:
    """Replace the DequantizeLinear of activations that float operators read.

    If its scale or zero point is not constant, a Max of one operand, which is the identity, is
    written after it instead: runtimes do not fuse through it.

    Args:
        graph: the main graph, when all layers and constants are written; it and its subgraphs are
            changed.
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
        value = one.write(one.codes) if one is not None and plain else _with_identity(node)
        _redirect(graph, node.outputs[0], value)


def _stored_codes(one: Dequantization) -> Array | None:
    """Return the constant codes of a DequantizeLinear, None if they are not constant."""
    stored = constant(one.codes)
    if stored is not None:
        return stored
    try:
        return read_quantized_constant(one.node)[0]
    except NotQuantizedError:
        return None


def _with_identity(node: ir.Node) -> ir.Value:
    made = node.outputs[0]
    kept = ir.node("Max", [made], name=f"{made.name}/kept")
    kept.outputs[0].name = f"{kept.name}_output"
    kept.outputs[0].shape, kept.outputs[0].type = made.shape, made.type
    graph_of(node).insert_after(node, kept)
    return kept.outputs[0]


def _redirect(main: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Replace a value by another in all uses except those of written layers.

    Also as an output of the body of an If or Loop: a runtime may inline the body.
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
