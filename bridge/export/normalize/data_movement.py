"""Quantizes layer inputs that were quantized before data movement (MaxPool, Reshape, Concat, ...).

    x -> Q -> DQ -> (data movement) -> layer
      =>
    x -> Q -> DQ -> (data movement) -> Q -> DQ -> layer
      =>
    x -> (data movement) -> Q -> DQ -> layer            if the first pair has no other consumer

Reason: the readers look for a Q/DQ pair directly before a layer. Other tools leave it out, as these
operators only move codes, and all of their tensors share one scale and zero point.

The second pair changes no value. For codes q, |q - zero_point| < 2^17: the product
(q - zero_point) * scale and the division by scale have relative errors of at most 2^-24 each in
float32, together less than half a quantization step, so that the quantizer returns q. The first
pair can go because quantization is monotone and elementwise, so that it commutes with these
operators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.windows import every_window_has_values, may_see_only_padding
from bridge.export.graph.constants import constant, reshaper
from bridge.export.graph.operators import is_standard, optional_input, zero_point_input
from bridge.export.read.layers import OPERATORS
from bridge.export.read.qdq import (
    NotQuantizedError,
    check_scale,
    dequantizer_of,
    is_activation,
    read_qparams,
)

_MOST_NODES = 1000
"""Most operators between a DequantizeLinear and a layer."""


@dataclass(frozen=True, slots=True)
class _Path:
    """Operators between a layer and the Q/DQ pairs, of one scale and zero point, of its input."""

    moves: dict[ir.Node, None]
    pairs: dict[ir.Node, None]


def quantize_layer_inputs(graph: ir.Graph) -> None:
    """Write a Q/DQ pair before every layer whose input was quantized before data movement.

    Args:
        graph: the main graph of a QDQ model; it and its subgraphs are changed.
    """
    paths: dict[ir.Value, _Path] = {}
    written: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        owner = node.graph
        if not isinstance(owner, ir.Graph):
            continue
        for index in _activations(node):
            value = node.inputs[index]
            path = _path(value)
            if value is None or path is None:
                continue
            if (value, owner) not in written:
                written[value, owner] = _pair(owner, node, value, next(iter(path.pairs)))
                paths[value] = path
            node.replace_input_with(index, written[value, owner])
    for path in paths.values():
        _drop_first_pair(path)


def _activations(node: ir.Node) -> Iterator[int]:
    """Iterate over the indices of a layer's inputs that are activations."""
    if node.op_type not in OPERATORS or not is_standard(node) or len(node.inputs) < 2:
        return
    second = node.inputs[1]
    if dequantizer_of(second)[0] is not None and not is_activation(second):
        yield 0
    elif node.op_type == "MatMul" and all(_is_pair(v) or _path(v) for v in node.inputs):
        yield from (0, 1)


def _is_pair(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _path(value: ir.Value | None) -> _Path | None:
    """Follow a value back to Q/DQ pairs of one scale and zero point; None if there are none."""
    path, waiting = _Path({}, {}), [] if value is None else [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None or len(path.moves) > _MOST_NODES:
            return None
        if node.op_type == "DequantizeLinear":
            path.pairs[node] = None
        elif node not in path.moves:
            data = _moved_inputs(node)
            if data is None:
                return None
            path.moves[node] = None
            waiting += data
    same = _qparams(next(iter(path.pairs))) if path.moves and path.pairs else None
    if same is None or any(_qparams(pair) != same for pair in path.pairs):
        return None
    return path if all(_can_represent_padding(node, *same) for node in path.moves) else None


def round_trips(scale: np.float32, codes: np.dtype[Any]) -> bool:
    """Whether dequantizing and quantizing returns every code: round(((q - z) * s) / s) = q - z.

    Args:
        scale: s, float32, positive and finite.
        codes: dtype of q and z.
    Returns:
        False for integers of more than 16 bits, for a subnormal scale, and for one with which the
        largest value overflows float32.
    """
    if codes.kind not in "iu" or codes.itemsize > 2:
        return False
    with np.errstate(over="ignore"):
        largest = scale * np.float32(1 << 8 * codes.itemsize)
    return bool(np.isfinite(largest) and scale >= np.finfo(np.float32).tiny)


def _qparams(pair: ir.Node) -> tuple[np.float32, np.dtype[Any], int] | None:
    """Return scale, dtype and zero point of a per-tensor pair that round_trips, else None."""
    try:
        scale, zero_point = read_qparams(pair)
        check_scale(pair, scale)
    except NotQuantizedError:
        return None
    if scale.size != 1 or not round_trips(np.float32(scale.item()), zero_point.dtype):
        return None
    return np.float32(scale.item()), zero_point.dtype, int(zero_point.item())


def _moved_inputs(node: ir.Node) -> list[ir.Value] | None:
    """Return the inputs whose elements a node only moves or selects, None for other operators."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if not is_standard(node) or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Concat":
        return [value for value in node.inputs if value is not None]
    plain = {
        "Dropout": _is_false(optional_input(node, 2)),
        "MaxPool": not may_see_only_padding(node) or every_window_has_values(node),
        "Resize": given.get("mode", "nearest") == "nearest"
        and given.get("coordinate_transformation_mode") != "tf_crop_and_resize",
    }
    second = len(node.outputs) > 1 and node.op_type != "Split" and bool(node.outputs[1].uses())
    if second or not plain.get(node.op_type, node.op_type in _MOVES):
        return None
    return [node.inputs[0]]


_MOVES = frozenset(
    (
        *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split"),
        *("Gather", "GatherElements", "GatherND", "Expand", "Tile", "DepthToSpace"),
        *("SpaceToDepth", "Pad", "Relu", "ReduceMax", "ReduceMin", "GlobalMaxPool", "Compress"),
        "ReverseSequence",
    )
)
"""Operators whose outputs contain only elements of their first input, or zeros."""


def _is_false(value: ir.Value | None) -> bool:
    stored = constant(value)
    return value is None or (stored is not None and not stored.any())


def _can_represent_padding(
    node: ir.Node, scale: np.float32, codes: np.dtype[Any], zero: int
) -> bool:
    """Whether codes can represent the value that a Pad adds; True for other operators."""
    value = optional_input(node, 2) if node.op_type == "Pad" else None
    if value is None:
        return True
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    added, info = constant(value), np.iinfo(codes)
    if added is None or added.dtype != np.float32 or added.size != 1 or not np.isfinite(added):
        return False
    steps = np.clip(np.rint(added / scale), info.min - zero, info.max - zero)
    return bool((steps.astype(np.float32) * scale == added).all())


def _pair(graph: ir.Graph, before: ir.Node, value: ir.Value, like: ir.Node) -> ir.Value:
    """Write a Q/DQ pair with the parameters of another one before a node."""
    zero_point = read_qparams(like)[1]
    given = zero_point_input(like)
    parameters = [like.inputs[1]] if given is None else [like.inputs[1], given]
    names = f"{value.name}/quantized", f"{value.name}/dequantized"
    # Without a zero point, QuantizeLinear quantizes to uint8.
    signed = zero_point.dtype != np.uint8 and given is None
    attributes = {"output_dtype": ir.DataType.from_numpy(zero_point.dtype)} if signed else {}
    quantize = ir.node("QuantizeLinear", [value, *parameters], attributes, name=names[0])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters], name=names[1])
    kinds = ir.DataType.from_numpy(zero_point.dtype), ir.DataType.FLOAT
    for node, name, kind in zip((quantize, dequantize), names, kinds, strict=True):
        node.outputs[0].name, node.outputs[0].shape = name, value.shape
        node.outputs[0].type = ir.TensorType(kind)
        graph.insert_before(before, node)
    return dequantize.outputs[0]


def _drop_first_pair(path: _Path) -> None:
    """Remove the first pair if it and the moves have no other consumer than the new pair."""
    (dequantize, *others), moves = path.pairs, list(path.moves)
    quantize = None if dequantize.inputs[0] is None else dequantize.inputs[0].producer()
    if others or quantize is None or quantize.op_type != "QuantizeLinear":
        return
    chained = all(node.op_type in ("MaxPool", "Relu") or reshaper(node) for node in moves)
    nodes = [quantize, dequantize, *moves]
    alone = all(
        sum(len(value.uses()) for value in node.outputs) == 1
        and not any(value.is_graph_output() for value in node.outputs)
        and node.graph is moves[0].graph
        for node in nodes
    )
    if chained and alone and _qparams(quantize) == _qparams(dequantize):
        moves[-1].replace_input_with(0, quantize.inputs[0])
        for node in (dequantize, quantize):
            if node.graph is not None:
                node.graph.remove(node, safe=True)
