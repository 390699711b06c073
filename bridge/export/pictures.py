"""A convolution in three dimensions as one in two, for which ONNX Runtime has faster kernels.

Each place of the output's depth becomes a picture of the batch, and what the kernel's taps along
the depth see there becomes its channels:

    y[n, :, d] = sum over k of conv2d(x[n, :, stride * d + dilation * k - pad], w[:, :, k])

Channels are last while slices are moved about, as in the kernels: the Transposes next to the
convolution, and those between two such layers, cancel when the model is loaded. Few channels in
groups fill a kernel better as one group, with zeros between the groups.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.interleave import reshape, size_of
from bridge.export.layer import QuantizedLayer
from bridge.export.scribe import Scribe
from bridge.export.sub_pixel import given_axes

_DIMENSIONS = 3
_FEW_CHANNELS = 16
"""Up to so many channels, groups are written as one."""

_MOST_TAPS = 64
"""Along the depth, where each is a slice of the input: more are more nodes than they are worth."""

_TO_THE_END = np.iinfo(np.int64).max


class Pictures(NamedTuple):
    """A convolution of pictures, and how volumes become these.

    Args:
        weight: (out, in/groups * taps, height, width), taps first among what a group sees.
        attributes: the operator's.
        groups: of the operator.
        taps: of the kernel along the depth.
        stride: along the depth.
        dilation: along the depth.
        pads: places of the depth before and behind.
    """

    weight: Array
    attributes: dict[str, Any]
    groups: int
    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]


def has_pictures(layer: QuantizedLayer) -> bool:
    """Whether a layer is a convolution that can be one of pictures, by a kernel worth having.

    Args:
        layer: any layer.
    Returns:
        False too for padding that depends on the input's size, for kernels of one tap or of very
            many along the depth, and for many channels in groups of one, whose kernel wants one
            tap.
    """
    if layer.op != "Conv" or layer.weight.ndim != _DIMENSIONS + 2 or not layer.fixed_padding:
        return False
    inputs, *kernel = layer.weight.shape[1:]
    right = tuple(layer.attributes.get("kernel_shape") or kernel) == tuple(kernel)
    slow = (inputs == 1 and layer.groups > _FEW_CHANNELS) or prod(kernel) == 1
    short = kernel[0] <= _MOST_TAPS
    return right and short and not slow and given_axes(layer) is not None


def as_pictures(layer: QuantizedLayer) -> Pictures:
    """Restate a layer as a convolution of pictures.

    Args:
        layer: one that has_pictures.
    Returns:
        the convolution.
    Raises:
        ValueError: the layer is no such convolution.
    """
    axes = given_axes(layer)
    if axes is None:
        raise ValueError(f"layer {layer.name!r} has no pictures")
    depth, *plane = axes
    weight, groups = layer.weight, layer.groups
    if weight.shape[1] * groups <= _FEW_CHANNELS:
        weight, groups = _one_group(weight, groups), 1
    weight = weight.swapaxes(1, 2).reshape(len(weight), -1, *weight.shape[3:])
    attributes = {
        "kernel_shape": [axis.size for axis in plane],
        "strides": [axis.stride for axis in plane],
        "dilations": [axis.dilation for axis in plane],
        "pads": [axis.begin for axis in plane] + [axis.end for axis in plane],
        "group": groups,
    }
    pads = depth.begin, depth.end
    return Pictures(weight, attributes, groups, depth.size, depth.stride, depth.dilation, pads)


def write_pictures(scribe: Scribe, layer: QuantizedLayer, pictures: Pictures) -> ir.Value:
    """Write a layer's input as pictures.

    Args:
        scribe: writes the nodes.
        layer: its x_q is (n, c, depth, height, width).
        pictures: from as_pictures.
    Returns:
        codes, (n * depth of the output, c * taps, height, width).
    """
    taps, groups, dilation = pictures.taps, pictures.groups, pictures.dilation
    x = scribe.op("Transpose", layer.x_q, perm=[0, 2, 3, 4, 1])
    if any(pictures.pads):
        begin, end = pictures.pads
        pads = np.array([0, begin, 0, 0, 0, 0, end, 0, 0, 0], np.int64)
        x = scribe.op("Pad", x, pads, layer.zero_point_x.reshape(()))
    channels = pictures.weight.shape[1] // taps
    if groups > 1:
        x = reshape(scribe, x, 0, 0, 0, 0, groups, channels)
    if taps > 1 or pictures.stride > 1:
        ends = [dilation * (k + 1 - taps) or _TO_THE_END for k in range(taps)]
        limits = zip(range(0, dilation * taps, dilation), ends, strict=True)
        parts = [
            scribe.op("Slice", x, *(np.array([i], np.int64) for i in (*pair, 1, pictures.stride)))
            for pair in limits
        ]
        x = scribe.op("Concat", *parts, axis=-1) if taps > 1 else parts[0]
    height, width = (size_of(scribe, layer.x_q, axis) for axis in (-2, -1))
    x = reshape(scribe, x, -1, height, width, groups * channels * taps)
    return scribe.op("Transpose", x, perm=[0, 3, 1, 2])


def write_volumes(
    scribe: Scribe, layer: QuantizedLayer, pictures: Pictures, y: ir.Value
) -> ir.Value:
    """Write the output of a convolution of pictures as volumes.

    Args:
        scribe: writes the nodes.
        layer: the layer.
        pictures: from as_pictures.
        y: any numbers, (n * depth, c, height, width).
    Returns:
        the numbers, (n, c, depth, height, width).
    """
    depth, height, width = _depth(scribe, layer, pictures), *(size_of(scribe, y, i) for i in (2, 3))
    y = scribe.op("Transpose", y, perm=[0, 2, 3, 1])
    y = reshape(scribe, y, -1, depth, height, width, len(layer.weight))
    return scribe.op("Transpose", y, perm=[0, 4, 1, 2, 3])


def _depth(scribe: Scribe, layer: QuantizedLayer, pictures: Pictures) -> ir.Value:
    """Write the depth of the output; the batch's size, which may be 0, is left to Reshape."""
    depth = size_of(scribe, layer.x_q, 2)
    more = sum(pictures.pads) - pictures.dilation * (pictures.taps - 1) - 1
    last = scribe.op("Add", depth, np.array([more], np.int64))
    strides = scribe.op("Div", last, np.array([pictures.stride], np.int64))
    return scribe.op("Add", strides, np.array([1], np.int64))


def _one_group(weight: Array, groups: int) -> Array:
    """(out, in/groups, ...) -> (out, in, ...), zeros where another group's inputs are."""
    outputs, inputs, *kernel = weight.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *kernel), weight.dtype)
    each = np.arange(groups)
    whole[each, :, each] = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return whole.reshape(outputs, groups * inputs, *kernel)
