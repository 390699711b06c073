"""A 3-D convolution as a 2-D convolution of depth slices (geometry.conv3d).

    x_q (n, c, depth, height, width) -> QLinearConv -> (n, out, depth', height', width')
        becomes
    x_q -> Transpose -> (Pad) -> Slice of each tap -> Concat -> Reshape -> Transpose
        -> QLinearConv on (n * depth', c * taps, height, width)
        -> Transpose -> Reshape -> Transpose -> (n, out, depth', height', width')

ONNX Runtime has fast integer kernels for two spatial dimensions only. Slices are copied with
channels last, as these kernels compute, so that the inner Transposes cancel at load time.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv3d import Conv3dAsConv2d
from bridge.export.graph.builder import Builder
from bridge.export.lower.depth_to_space import reshape, size_of
from bridge.export.read.layer import QuantizedLayer

_TO_THE_END = np.iinfo(np.int64).max


def write_slices(builder: Builder, layer: QuantizedLayer, conv2d: Conv3dAsConv2d) -> ir.Value:
    """Write a layer's input as a batch of depth slices, one for each depth of the output.

    Args:
        builder: writes the nodes.
        layer: a layer whose x_q is (n, c, depth, height, width).
        conv2d: the 2-D convolution of the layer.
    Returns:
        codes of x_q's dtype, (n * depth of the output, c * taps, height, width).
    """
    taps, groups, dilation = conv2d.taps, conv2d.groups, conv2d.dilation
    x = builder.op("Transpose", layer.x_q, perm=[0, 2, 3, 4, 1])
    if any(conv2d.pads):
        begin, end = conv2d.pads
        pads = np.array([0, begin, 0, 0, 0, 0, end, 0, 0, 0], np.int64)
        x = builder.op("Pad", x, pads, layer.zero_point_x.reshape(()))
    channels = conv2d.weight.shape[1] // taps
    if groups > 1:
        x = reshape(builder, x, 0, 0, 0, 0, groups, channels)
    if taps > 1 or conv2d.stride > 1:
        ends = [dilation * (k + 1 - taps) or _TO_THE_END for k in range(taps)]
        limits = zip(range(0, dilation * taps, dilation), ends, strict=True)
        parts = [
            builder.op("Slice", x, *(np.array([i], np.int64) for i in (*pair, 1, conv2d.stride)))
            for pair in limits
        ]
        x = builder.op("Concat", *parts, axis=-1) if taps > 1 else parts[0]
    height, width = (size_of(builder, layer.x_q, axis) for axis in (-2, -1))
    x = reshape(builder, x, -1, height, width, groups * channels * taps)
    return builder.op("Transpose", x, perm=[0, 3, 1, 2])


def write_volumes(
    builder: Builder, layer: QuantizedLayer, conv2d: Conv3dAsConv2d, y: ir.Value
) -> ir.Value:
    """Write the output of the 2-D convolution in the shape of the 3-D convolution's.

    Args:
        builder: writes the nodes.
        layer: the layer.
        conv2d: the 2-D convolution of the layer.
        y: its output, (n * depth, out, height, width), any dtype.
    Returns:
        y as (n, out, depth, height, width).
    """
    depth, height, width = _depth(builder, layer, conv2d), *(size_of(builder, y, i) for i in (2, 3))
    y = builder.op("Transpose", y, perm=[0, 2, 3, 1])
    y = reshape(builder, y, -1, depth, height, width, len(layer.weight))
    return builder.op("Transpose", y, perm=[0, 4, 1, 2, 3])


def _depth(builder: Builder, layer: QuantizedLayer, conv2d: Conv3dAsConv2d) -> ir.Value:
    """Write the depth of the output, so that Reshape infers the batch size, which may be 0."""
    depth = size_of(builder, layer.x_q, 2)
    more = sum(conv2d.pads) - conv2d.dilation * (conv2d.taps - 1) - 1
    last = builder.op("Add", depth, np.array([more], np.int64))
    strides = builder.op("Div", last, np.array([conv2d.stride], np.int64))
    return builder.op("Add", strides, np.array([1], np.int64))
