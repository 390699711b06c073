"""Folds quantization parameters, stored weights and biases that are computed from constants.

    constant -> Cast | Mul | Reshape | ... -> input of Q, DQ or bias of Conv | ConvTranspose | Gemm
      =>
    initializer -> the same input

Reason: the readers need constants. Only operators whose results IEEE 754 defines exactly are
folded, so that every runtime would compute the same values.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from bridge.export.graph.builder import add_initializer
from bridge.export.graph.constants import Array, constant
from bridge.export.graph.operators import QUANTIZERS, is_standard

_ELEMENTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min", "Sqrt", "Reciprocal", "Round"),
        *("Floor", "Ceil", "Cast", "Where", "Clip", "Identity", "Equal", "Not"),
    )
)
_SHAPES = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Concat", "Slice"))
_MOST_NODES = 64
_MOST_ELEMENTS = 1 << 24
"""Largest result that is folded."""

_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")


def fold_parameters(graph: ir.Graph) -> None:
    """Replace inputs of quantizers, and biases, that are computed from constants by initializers.

    Args:
        graph: the main graph; it and its subgraphs are changed.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        if not is_standard(node) or not isinstance(node.graph, ir.Graph):
            continue
        for index, value in enumerate(node.inputs):
            read = node.op_type in QUANTIZERS or (node.op_type in _WITH_BIAS and index == 2)
            if value is None or not read or not _is_computed(value):
                continue
            array = _computed(value, graph.opset_imports.get("", 0))
            if array is not None:
                name = f"{value.name}_computed"
                node.replace_input_with(index, add_initializer(node.graph, name, array))


def _is_computed(value: ir.Value) -> bool:
    producer = value.producer()
    known = producer is not None and producer.op_type in _ELEMENTWISE | _SHAPES
    return known and constant(value) is None


def _computed(value: ir.Value, opset: int) -> Array | None:
    """Compute a value from constants; None if it depends on the model's inputs."""
    order = _ancestors(value)
    if order is None:
        return None
    values: dict[ir.Value | None, Array] = {}
    for node in order:
        inputs = [values[v] if v in values else constant(v) for v in node.inputs]
        result = _run(node, inputs, opset)
        if result is None:
            return None
        values[node.outputs[0]] = result
    return values[value]


def _ancestors(value: ir.Value) -> list[ir.Node] | None:
    """List the nodes that compute a value from constants, in order; None if it has others."""
    order: dict[ir.Node, None] = {}
    waiting = [value]
    while waiting:
        node = waiting[-1].producer()
        if node is None or node.op_type not in _ELEMENTWISE | _SHAPES or len(node.outputs) > 1:
            return None
        inputs = [v for v in node.inputs if v is not None and constant(v) is None]
        before = [v for v in inputs if v.producer() not in order]
        if len(waiting) > _MOST_NODES or len(order) > _MOST_NODES:
            return None
        if before:
            waiting += before[:1]
        else:
            order[node] = None
            waiting.pop()
    return list(order)


def _run(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> Array | None:
    given = [array for array in inputs if array is not None]
    try:
        if node.op_type == "Concat":
            size = sum(array.size for array in given)
        elif node.op_type in _ELEMENTWISE:
            size = prod(np.broadcast_shapes(*(array.shape for array in given)))
        else:
            size = given[0].size
        if size > _MOST_ELEMENTS:
            return None
        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets={"": opset})
        names = [None if value is None else value.name for value in node.inputs]
        feeds = {name: a for name, a in zip(names, inputs, strict=True) if name and a is not None}
        with np.errstate(all="ignore"):
            (result,) = evaluator.run(None, feeds)
    except Exception:  # invalid inputs, which a runtime rejects as well
        return None
    return np.asarray(result)
