"""Q/DQ pairs that only float operators read, in the Ascend dialect.

x -> QuantizeLinear -> DequantizeLinear -> float operator
becomes, in fake-quant,
x -> Mul(1 / scale) -> Round -> Clip -> Cast(int32) -> Cast(float32) -> Mul(scale)
and in deploy
x -> AscendQuant -> AscendAntiQuant
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.graph.builder import add_initializer, graph_of
from bridge.export.graph.constants import name_of
from bridge.export.graph.errors import ConversionError
from bridge.export.read.layer import signed_zero_point
from bridge.export.read.qdq import NotQuantizedError, read_qparams
from bridge.export.targets.ascend.dialect import check_pair

_Writer = Callable[[ir.Graph, ir.Value, np.float32, int], list[ir.Node]]


def rewrite_remaining_pairs(graph: ir.Graph) -> None:
    """Replace the Q/DQ pairs before float operators in the deploy model.

    A QuantizeLinear stays beside them if something else reads its codes, such as a graph output.

    Args:
        graph: after all layers and stored weights are written and unused nodes removed; changed in
            place.
    Raises:
        ConversionError: a pair's scale or zero point is not constant, not for 8 bits, or differs
            between its two nodes; names the node.
    """
    _rewrite(graph, _dialect)


def rewrite_remaining_fake_pairs(graph: ir.Graph) -> None:
    """Replace the same pairs in the fake-quant model by the dialect's arithmetic in float.

    Args:
        graph: as for rewrite_remaining_pairs.
    Raises:
        ConversionError: as for rewrite_remaining_pairs.
    """
    _rewrite(graph, _float_operators)


def _rewrite(graph: ir.Graph, write: _Writer) -> None:
    for quantize, dequantize in list(_pairs(graph)):
        owner = graph_of(dequantize)
        name = name_of(dequantize)
        try:
            scale, zero_point = read_qparams(dequantize)
        except NotQuantizedError as reason:
            raise ConversionError(f"node {name!r}: {reason}") from reason
        if scale.size != 1:
            continue
        if zero_point.dtype not in (np.int8, np.uint8):
            raise ConversionError(
                f"node {name!r}: target 'ascend' takes INT8 activations, got {zero_point.dtype}"
            )
        step = np.float32(scale.item())
        check_pair(quantize, step, zero_point.reshape(()), name)
        x = quantize.inputs[0]
        if x is None:
            raise ConversionError(f"node {name_of(quantize)!r} has no input")
        nodes = write(owner, x, step, signed_zero_point(zero_point))
        for i, node in enumerate(nodes):
            # Default names count within one graph and would clash with those of nested graphs.
            node.name = node.outputs[0].name = f"{name}/ascend_{i}"
        owner.insert_before(dequantize, nodes)
        _replace(owner, dequantize, nodes[-1])


def _pairs(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    for node in RecursiveGraphIterator(graph):
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
            quantize = node.inputs[0].producer()
            if quantize is not None and quantize.op_type == "QuantizeLinear":
                yield quantize, node


def _replace(graph: ir.Graph, dequantize: ir.Node, last: ir.Node) -> None:
    old, new = dequantize.outputs[0], last.outputs[0]
    new.shape, new.type = old.shape, old.type
    name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name = name
    graph.remove(dequantize, safe=True)


def _dialect(_: ir.Graph, x: ir.Value, scale: np.float32, zero: int) -> list[ir.Node]:
    reciprocal = float(np.float32(1.0) / scale)
    first = ir.node(
        "AscendQuant", [x], {"scale": reciprocal, "offset": float(zero), "dst_type": "INT8"}
    )
    back = {"scale": float(scale), "offset": float(-zero)}
    return [first, ir.node("AscendAntiQuant", first.outputs, back)]


def _float_operators(graph: ir.Graph, x: ir.Value, scale: np.float32, zero: int) -> list[ir.Node]:
    constants = np.float32(1.0) / scale, np.float32(-128 - zero), np.float32(127 - zero), scale
    reciprocal, low, high, step = (
        add_initializer(graph, f"{x.name}_ascend_{i}", value) for i, value in enumerate(constants)
    )
    nodes: list[ir.Node] = []

    def op(op_type: str, *operands: ir.Value, **attributes: int) -> None:
        before = nodes[-1].outputs if nodes else [x]
        nodes.append(ir.node(op_type, [*before, *operands], attributes))

    op("Mul", reciprocal)
    op("Round")
    op("Clip", low, high)
    op("Cast", to=ir.DataType.INT32)  # turns -0.0 into 0, as integer codes do
    op("Cast", to=ir.DataType.FLOAT)
    op("Mul", step)
    return nodes
