"""Biases of layers, rounded to the accumulator's scale, scale_x * scale_w.

    float bias | integers -> DequantizeLinear | float bias -> QuantizeLinear -> DequantizeLinear
      ->  int32 round(bias / (scale_x * scale_w))

Integers may have any type and scale; int32 on the accumulator's scale are not changed.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array, constant
from bridge.export.graph.operators import optional_input
from bridge.export.read.qdq import (
    NotQuantizedError,
    check_scale,
    dequantizer_of,
    read_quantized_constant,
    why_not_constant,
)
from qatfunc.limits import INT32_MAX


def read_bias(node: ir.Node, channels: int) -> tuple[ir.Value, Array | None]:
    """Read a layer's bias: the third input, or of a MatMul the constant of an Add after it.

    Args:
        node: the layer's operator.
        channels: of its output.
    Returns:
        the layer's output, after the Add if there is one; the bias as floats (channels,), None
        without one.
    Raises:
        NotQuantizedError: the bias is not constant, or does not have one value per channel.
    """
    output = node.outputs[0]
    if node.op_type != "MatMul":
        value = optional_input(node, 2)
        if value is None:
            return output, None
        bias = _floats(value)
        if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
            raise NotQuantizedError(f"its bias has shape {bias.shape}, not one value per channel")
        return output, np.broadcast_to(bias.ravel(), (channels,))
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        # The body of an If or Loop may not run, or run many times.
        added = _constant_floats(add.inputs[1 - uses[0].idx]) if add.graph is node.graph else None
        if added is not None and added.dtype.kind == "f" and added.shape == (channels,):
            return add.outputs[0], added
    return output, None


def integer_bias(
    bias: Array | None, rescale: Array, correction: Array | None = None
) -> Array | None:
    """Round a bias to the accumulator's scale.

    round(bias / rescale) + correction

    Args:
        bias: floats (channels,), None without one.
        rescale: float32 (channels,) or (1,), scale_x * scale_w.
        correction: int64 (channels,), from channel_scales; None without one.
    Returns:
        int32 (channels,), None if there is neither bias nor correction.
    Raises:
        NotQuantizedError: a value exceeds int32.
    """
    if bias is None:
        return None if correction is None else _int32(correction.astype(np.float64))
    with np.errstate(over="ignore"):
        rounded = np.rint(bias.astype(np.promote_types(bias.dtype, np.float32)) / rescale)
    return _int32(rounded if correction is None else rounded.astype(np.float64) + correction)


def _int32(steps: Array) -> Array:
    worst = np.abs(steps).max(initial=0.0)
    if not worst <= INT32_MAX:  # NaN too
        raise NotQuantizedError(
            f"its bias / (scale_x * scale_w) must fit int32, got up to {worst:.4g}; "
            "the scale of a channel is too small for its bias"
        )
    return steps.astype(np.int64).clip(-INT32_MAX, INT32_MAX).astype(np.int32)


def _constant_floats(value: ir.Value | None) -> Array | None:
    """Return a constant as floats, dequantized if need be; None for other values."""
    try:
        return None if value is None else _floats(value)
    except NotQuantizedError:
        return None


def _floats(value: ir.Value) -> Array:
    stored = constant(value)
    if stored is not None:
        return stored
    producer, moves = dequantizer_of(value)
    if producer is None:
        raise NotQuantizedError(f"its bias {why_not_constant(value)}")
    integers, scale, zero_point = read_quantized_constant(producer, what="bias")
    check_scale(producer, scale)
    if integers.dtype == np.int32 and zero_point.any():
        raise NotQuantizedError("its bias is int32 with a zero point, which ONNX does not allow")
    # In float64, so that int32 on the accumulator's scale are rounded back to themselves.
    floats: Array = (integers.astype(np.float64) - zero_point.astype(np.float64)) * scale
    for move in moves:
        floats = move(floats)
    return floats
