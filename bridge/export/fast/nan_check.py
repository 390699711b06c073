"""Finding the layer whose input has NaN: the code of NaN differs between processors."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array, constant

_COUNT = "/not_a_number"


def quantized_inputs(operators: Iterable[tuple[str, ir.Node]]) -> dict[str, str]:
    """Find the float values that layers quantize.

    Args:
        operators: names and nodes of layers and products, in topological order.
    Returns:
        by the name of each quantized value, the name of the first layer that reads it.
    """
    found: dict[str, str] = {}
    for name, node in operators:
        for value in map(_before_pair, node.inputs):
            if value is not None and value.name:
                found.setdefault(value.name, name)
    return found


def _before_pair(value: ir.Value | None) -> ir.Value | None:
    """Return the float input of a Q/DQ pair; None for a constant, or without a pair."""
    for op_type in ("DequantizeLinear", "QuantizeLinear"):
        pair = None if value is None else value.producer()
        if pair is None or pair.op_type != op_type:
            return None
        value = pair.inputs[0]
    computed = value is not None and (value.is_graph_input() or value.producer() is not None)
    return value if computed and constant(value) is None else None


def append_nan_counts(graph: ir.Graph, names: Iterable[str]) -> list[str]:
    """Append nodes that count the NaNs in values: IsNaN -> Cast(int64) -> ReduceSum.

    Args:
        graph: the main graph; changed in place.
        names: of the float values to check.
    Returns:
        the names of the counts, int64 scalars; they are not yet graph outputs.
    """
    known = {value.name: value for value in graph.inputs}
    known |= {value.name: value for node in graph for value in node.outputs}
    counts = []
    for name in names:
        value = known[name]
        steps: list[tuple[str, dict[str, int]]] = [
            ("IsNaN", {}),
            ("Cast", {"to": ir.DataType.INT64}),
            ("ReduceSum", {"keepdims": 0}),
        ]
        for op_type, attributes in steps:
            graph.append(node := ir.node(op_type, [value], attributes))
            value = node.outputs[0]
        value.name = f"{name}{_COUNT}"
        value.type = ir.TensorType(ir.DataType.INT64)
        counts.append(value.name)
    return counts


def check_no_nan(found: Mapping[str, Array], readers: Mapping[str, str], batch: int) -> None:
    """Raise if a layer's input has NaN.

    Args:
        found: values by name, with the counts of append_nan_counts among them.
        readers: from quantized_inputs.
        batch: number of the batch, for the message.
    Raises:
        ValueError: an input has NaN; names the layer.
    """
    for name, layer in readers.items():
        count = int(np.asarray(found[f"{name}{_COUNT}"]))
        if count:
            raise ValueError(
                f"layer {layer!r} has NaN in its input {name!r} on batch {batch} of data: {count} "
                "values; the code of NaN differs between processors, so leave out such batches, or "
                "fix what computes it"
            )
