"""Q/DQ pairs that no layer reads, as the Ascend dialect has them: their readers are in float.

AscendQuant -> AscendAntiQuant           in the deploy model
Mul -> Round -> Clip -> Cast -> Mul      in fake-quant, which multiplies by the reciprocal too
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
    """Write what is left of Q/DQ pairs around float operators in the dialect.

    A pair keeps its QuantizeLinear where its codes are read elsewhere too, as by a graph output.

    Args:
        graph: after all layers and stored weights were written and unused nodes removed.
    Raises:
        ConversionError: a pair's scale or zero point is not constant, not 8 bits wide or not the
            same on both sides; names the node.
    """
    _rewrite(graph, _dialect)


def rewrite_remaining_fake_pairs(graph: ir.Graph) -> None:
    """Write the same pairs in the fake-quant model, as the dialect computes them.

    Args:
        graph: as rewrite_remaining_pairs takes it.
    Raises:
        ConversionError: as rewrite_remaining_pairs does.
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
        number = np.float32(scale.item())
        check_pair(quantize, number, zero_point.reshape(()), name)
        x = quantize.inputs[0]
        if x is None:
            raise ConversionError(f"node {name_of(quantize)!r} has no input")
        nodes = write(owner, x, number, signed_zero_point(zero_point))
        for i, node in enumerate(nodes):
            # A graph would name values by their count in it, as graphs inside and around it do.
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
    numbers = np.float32(1.0) / scale, np.float32(-128 - zero), np.float32(127 - zero), scale
    reciprocal, low, high, step = (
        add_initializer(graph, f"{x.name}_ascend_{i}", n) for i, n in enumerate(numbers)
    )
    nodes: list[ir.Node] = []

    def op(op_type: str, *operands: ir.Value, **attributes: int) -> None:
        before = nodes[-1].outputs if nodes else [x]
        nodes.append(ir.node(op_type, [*before, *operands], attributes))

    op("Mul", reciprocal)
    op("Round")
    op("Clip", low, high)
    op("Cast", to=ir.DataType.INT32)  # there is no negative zero among codes
    op("Cast", to=ir.DataType.FLOAT)
    op("Mul", step)
    return nodes
