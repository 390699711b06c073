"""A BatchNormalization after a layer, as a factor and a shift per channel.

y = (x - mean) / sqrt(var + eps) * weight + bias = x * factor + shift
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array, constant
from bridge.export.graph.operators import is_standard

_DEFAULT_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A BatchNormalization with constant statistics: y = x * factor + shift.

    Args:
        factor: float64 (channels,).
        shift: float32 (channels,).
    """

    factor: Array
    shift: Array


def read_batch_norm(value: ir.Value, *, channels_last: bool) -> tuple[BatchNorm, ir.Value] | None:
    """Read the BatchNormalization that is the only consumer of a layer's output.

    Args:
        value: the layer's output.
        channels_last: whether the layer has its channels on the last axis, not on axis 1.
    Returns:
        its factor and shift, and its output; None if the value has other consumers, the node is in
        a subgraph, its parameters are not constant float32, it normalizes another axis, or a
        factor or shift is not finite.
    """
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    if node.op_type != "BatchNormalization" or not is_standard(node) or uses[0].idx:
        return None
    producer = value.producer()
    if producer is None or node.graph is not producer.graph:
        return None  # the body of an If or Loop may not run, or run many times
    ranks = {v.shape.rank() for v in (value, node.outputs[0]) if v.shape is not None}
    if channels_last and ranks != {2}:
        return None
    if "training_mode" in node.attributes and node.attributes["training_mode"].as_int():
        return None
    parameters = [constant(source) for source in node.inputs[1:]]
    if any(array is None or array.dtype != np.float32 for array in parameters):
        return None
    weight, bias, mean, variance = (np.asarray(array, np.float64) for array in parameters)
    epsilon = node.attributes.get("epsilon")
    eps = _DEFAULT_EPSILON if epsilon is None else epsilon.as_float()
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = weight / np.sqrt(variance + eps)
        shift = (bias - mean * factor).astype(np.float32)
    if not (np.isfinite(factor) & np.isfinite(shift)).all():
        return None
    return BatchNorm(factor, shift), node.outputs[0]
