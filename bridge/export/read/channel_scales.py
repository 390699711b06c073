"""Inputs of convolutions that are quantized per channel, with one scale within each group.

    y[c] = sum over k of (q_x - zero_point)[k] scale_x[group of c] * q_w scale_w[c] + bias[c]
         = float32(acc[c]) * (scale_x[group of c] * scale_w[c])

NNCF quantizes the input of a depthwise convolution like this, whose groups have one channel. If the
zero points differ too, one of them is used for all channels, and the bias holds a correction:

    sum (q_x - zero_point[k]) q_w = sum (q_x - zero) q_w - sum (zero_point[k] - zero) q_w

The convolution must not pad then, as each channel would need its own zero point as padding:
normalize.channel_padding has written a Pad before the quantizer instead.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array
from bridge.export.graph.operators import int_attribute
from bridge.export.read.qdq import NotQuantizedError


def input_scale_per_output(
    node: ir.Node, scale: Array, zero_point: Array, *, weight: Array, groups: int
) -> tuple[Array, Array, Array | None]:
    """Return the input scale and zero point of each output channel.

    Args:
        node: the layer's operator.
        scale: float32 (1,), or one per input channel.
        zero_point: of the same shape.
        weight: in the operator's layout.
        groups: of a convolution.
    Returns:
        the scale, a float32 scalar or (out,); the zero point, a scalar; and the correction, int64
        (out,) to add to the sums, None if all zero points are equal.
    Raises:
        NotQuantizedError: a sum takes input channels of different scales, or the zero points differ
            and the operator pads or is transposed.
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
            "its input is quantized per channel, and its sums go over channels of different scales"
        )
    per_group = weight.shape[outputs] // (1 if transposed else groups)
    scale_x, zero = np.repeat(by_group[:, 0], per_group), zero_point[len(zero_point) // 2]
    if (zero_point == zero).all():
        return scale_x, zero, None
    if transposed or has_padding(node):
        raise NotQuantizedError("the zero points of its input differ between channels")
    apart = (zero_point.astype(np.int64) - int(zero)).reshape(groups, 1, -1)
    taps = weight.astype(np.int64).reshape(groups, per_group, weight.shape[1], -1).sum(axis=-1)
    return scale_x, zero, -(taps * apart).sum(axis=-1).ravel()


def has_padding(node: ir.Node) -> bool:
    """Whether a convolution pads its input, or may.

    Args:
        node: a Conv or ConvTranspose.
    """
    pads, auto = node.attributes.get("pads"), node.attributes.get("auto_pad")
    same = auto is not None and auto.as_string() not in ("NOTSET", "VALID")
    return same or (pads is not None and any(pads.as_ints()))
