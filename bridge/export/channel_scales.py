"""Activations with one scale a channel, in front of convolutions that sum each channel by itself.

    y[c] = sum over k of (q_x - zero_point)[k] scale_x[group of c] * q_w scale_w[c] + bias[c]
         = float32(acc[c]) * (scale_x[group of c] * scale_w[c])

A depthwise convolution has one channel a group; NNCF quantizes its input so.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.pairs import NotQuantizedError, int_attribute


def scale_of_outputs(
    node: ir.Node, scale: Array, zero_point: Array, *, weight: Array, groups: int
) -> tuple[Array, Array]:
    """Return the scale of the input that each output channel sums over.

    Args:
        node: the layer's operator.
        scale: float32, one or one a channel of the input.
        zero_point: as many.
        weight: in the operator's own layout.
        groups: of a convolution.
    Returns:
        scale, a float32 scalar or (out,), and the zero point, a scalar.
    Raises:
        NotQuantizedError: one sum takes channels of several scales, or the zero points differ.
    """
    if scale.size == 1:
        return scale.reshape(()), zero_point.reshape(())
    pair = node.inputs[0].producer() if node.inputs[0] is not None else None
    axis = 1 if pair is None else int_attribute(pair, "axis", 1)
    transposed = node.op_type == "ConvTranspose"
    channels, outputs = (1, 0) if not transposed else (0, 1)
    inputs = weight.shape[channels] * (1 if transposed else groups)
    on_channels = node.op_type in ("Conv", "ConvTranspose") and axis in (1, 1 - weight.ndim)
    if not on_channels or scale.size != inputs:
        raise NotQuantizedError("its input is not quantized per tensor")
    by_group = scale.reshape(groups, -1)
    if (by_group != by_group[:, :1]).any():
        raise NotQuantizedError(
            "its input has one scale a channel, and its sums go over channels of several scales"
        )
    if (zero_point != zero_point[0]).any():
        raise NotQuantizedError("the zero points of its input differ from channel to channel")
    per_group = weight.shape[outputs] // (1 if transposed else groups)
    return np.repeat(by_group[:, 0], per_group), zero_point[:1].reshape(())
