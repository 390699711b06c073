"""A 3-D convolution as a 2-D one, for which ONNX Runtime has faster integer kernels.

    y[n, :, d] = sum over k of conv2d(x[n, :, stride * d + dilation * k - pad], w[:, :, k])

So each depth position d of the output becomes an image of the batch, and the input slices that the
kernel's taps k read there become its channels. lower.conv3d slices and transposes the input.

A convolution with few channels in several groups fills a kernel better as one group, with zeros
between the groups.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from bridge.export.geometry.conv_transpose import conv_axes
from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer

_DIMENSIONS = 3
_FEW_CHANNELS = 16
"""Most input channels with which groups are merged into one."""

_MOST_TAPS = 64
"""Most taps along the depth; each needs a Slice of the input, and more nodes do not pay off."""


class Conv3dAsConv2d(NamedTuple):
    """The 2-D convolution that computes a 3-D one, and the geometry of the depth axis.

    Args:
        weight: (out, taps * in/groups, height, width); the channels of a group are ordered by tap.
        attributes: of the 2-D Conv.
        groups: of the 2-D Conv.
        taps: of the kernel along the depth.
        stride: along the depth.
        dilation: along the depth.
        pads: of the depth, before and after.
    """

    weight: Array
    attributes: dict[str, Any]
    groups: int
    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]


def can_be_conv2d(layer: QuantizedLayer) -> bool:
    """Whether a layer is a 3-D convolution that is faster as a 2-D one.

    Args:
        layer: any layer.
    Returns:
        False also for padding that depends on the input's size, for kernels of one tap or with
        very many taps along the depth, and for depthwise convolutions with many channels, whose
        kernel is fast only for one input channel per group.
    """
    if layer.op != "Conv" or layer.weight.ndim != _DIMENSIONS + 2 or not layer.fixed_padding:
        return False
    inputs, *kernel = layer.weight.shape[1:]
    right = tuple(layer.attributes.get("kernel_shape") or kernel) == tuple(kernel)
    slow = (inputs == 1 and layer.groups > _FEW_CHANNELS) or prod(kernel) == 1
    short = kernel[0] <= _MOST_TAPS
    return right and short and not slow and conv_axes(layer) is not None


def as_conv2d(layer: QuantizedLayer) -> Conv3dAsConv2d:
    """Return the 2-D convolution that computes a 3-D one.

    Args:
        layer: one that can_be_conv2d.
    Returns:
        the 2-D convolution.
    Raises:
        ValueError: an attribute of the layer is invalid.
    """
    axes = conv_axes(layer)
    if axes is None:
        raise ValueError(f"layer {layer.name!r} has no equivalent 2-D convolution")
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
    return Conv3dAsConv2d(
        weight, attributes, groups, depth.size, depth.stride, depth.dilation, pads
    )


def _one_group(weight: Array, groups: int) -> Array:
    """(out, in/groups, ...) -> (out, in, ...), with zeros for the inputs of other groups."""
    outputs, inputs, *kernel = weight.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *kernel), weight.dtype)
    each = np.arange(groups)
    whole[each, :, each] = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return whole.reshape(outputs, groups * inputs, *kernel)
