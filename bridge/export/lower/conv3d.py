"""Conv3d."""

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv3d import Conv3dAsConv2d
from bridge.export.graph.builder import Builder
from bridge.export.lower.depth_to_space import reshape, size_of
from bridge.export.read.layer import QuantizedLayer

_TO_THE_END = np.iinfo(np.int64).max


def write_pictures(builder: Builder, layer: QuantizedLayer, pictures: Conv3dAsConv2d) -> ir.Value:
    """Write a layer's input as pictures.

    Args:
        builder: writes the nodes.
        layer: its x_q is (n, c, depth, height, width).
        pictures: from as_conv2d.
    Returns:
        codes, (n * depth of the output, c * taps, height, width).
    """
    taps, groups, dilation = pictures.taps, pictures.groups, pictures.dilation
    x = builder.op("Transpose", layer.x_q, perm=[0, 2, 3, 4, 1])
    if any(pictures.pads):
        begin, end = pictures.pads
        pads = np.array([0, begin, 0, 0, 0, 0, end, 0, 0, 0], np.int64)
        x = builder.op("Pad", x, pads, layer.zero_point_x.reshape(()))
    channels = pictures.weight.shape[1] // taps
    if groups > 1:
        x = reshape(builder, x, 0, 0, 0, 0, groups, channels)
    if taps > 1 or pictures.stride > 1:
        ends = [dilation * (k + 1 - taps) or _TO_THE_END for k in range(taps)]
        limits = zip(range(0, dilation * taps, dilation), ends, strict=True)
        parts = [
            builder.op("Slice", x, *(np.array([i], np.int64) for i in (*pair, 1, pictures.stride)))
            for pair in limits
        ]
        x = builder.op("Concat", *parts, axis=-1) if taps > 1 else parts[0]
    height, width = (size_of(builder, layer.x_q, axis) for axis in (-2, -1))
    x = reshape(builder, x, -1, height, width, groups * channels * taps)
    return builder.op("Transpose", x, perm=[0, 3, 1, 2])


def write_volumes(
    builder: Builder, layer: QuantizedLayer, pictures: Conv3dAsConv2d, y: ir.Value
) -> ir.Value:
    """Write the output of a convolution of pictures as volumes.

    Args:
        builder: writes the nodes.
        layer: the layer.
        pictures: from as_conv2d.
        y: any numbers, (n * depth, c, height, width).
    Returns:
        the numbers, (n, c, depth, height, width).
    """
    depth, height, width = (
        _depth(builder, layer, pictures),
        *(size_of(builder, y, i) for i in (2, 3)),
    )
    y = builder.op("Transpose", y, perm=[0, 2, 3, 1])
    y = reshape(builder, y, -1, depth, height, width, len(layer.weight))
    return builder.op("Transpose", y, perm=[0, 4, 1, 2, 3])


def _depth(builder: Builder, layer: QuantizedLayer, pictures: Conv3dAsConv2d) -> ir.Value:
    """Write the depth of the output; the batch's size, which may be 0, is left to Reshape."""
    depth = size_of(builder, layer.x_q, 2)
    more = sum(pictures.pads) - pictures.dilation * (pictures.taps - 1) - 1
    last = builder.op("Add", depth, np.array([more], np.int64))
    strides = builder.op("Div", last, np.array([pictures.stride], np.int64))
    return builder.op("Add", strides, np.array([1], np.int64))
