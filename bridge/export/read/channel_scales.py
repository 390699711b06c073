"""Activations with one scale a channel, in front of convolutions that sum each channel by itself.

    y[c] = sum over k of (q_x - zero_point)[k] scale_x[group of c] * q_w scale_w[c] + bias[c]
         = float32(acc[c]) * (scale_x[group of c] * scale_w[c])

A depthwise convolution has one channel a group; NNCF quantizes its input so. Where the zero points
differ too, one of them is taken for all, and the bias corrects the sums:

    sum (q_x - zero_point[k]) q_w = sum (q_x - zero) q_w - sum (zero_point[k] - zero) q_w

Padding, which is the zero point of its channel, is written before the quantizer then.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array
from bridge.export.graph.operators import int_attribute
from bridge.export.read.qdq import NotQuantizedError


def input_scale_per_output(
    node: ir.Node, scale: Array, zero_point: Array, *, weight: Array, groups: int
) -> tuple[Array, Array, Array | None]:
    """Return the scale of the input that each output channel sums over, and its zero point.

    Args:
        node: the layer's operator.
        scale: float32, one or one a channel of the input.
        zero_point: as many.
        weight: in the operator's own layout.
        groups: of a convolution.
    Returns:
        scale, a float32 scalar or (out,); the zero point, a scalar; and int64 (out,) to add to the
        sums, None where the zero points are the same.
    Raises:
        NotQuantizedError: one sum takes channels of several scales, or the zero points differ and
            the operator pads.
    """
    if scale.size == 1:
        return scale.reshape(()), zero_point.reshape(()), None
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
    per_group = weight.shape[outputs] // (1 if transposed else groups)
    scale_x, zero = np.repeat(by_group[:, 0], per_group), zero_point[len(zero_point) // 2]
    if (zero_point == zero).all():
        return scale_x, zero, None
    if transposed or has_padding(node):
        raise NotQuantizedError("the zero points of its input differ from channel to channel")
    apart = (zero_point.astype(np.int64) - int(zero)).reshape(groups, 1, -1)
    taps = weight.astype(np.int64).reshape(groups, per_group, weight.shape[1], -1).sum(axis=-1)
    return scale_x, zero, -(taps * apart).sum(axis=-1).ravel()


def has_padding(node: ir.Node) -> bool:
    """Whether a convolution adds anything around its input."""
    pads, auto = node.attributes.get("pads"), node.attributes.get("auto_pad")
    same = auto is not None and auto.as_string() not in ("NOTSET", "VALID")
    return same or (pads is not None and any(pads.as_ints()))
