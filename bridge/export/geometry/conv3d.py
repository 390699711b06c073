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

from bridge.export.geometry.conv_transpose import conv_axes
from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer

_DIMENSIONS = 3
_FEW_CHANNELS = 16
"""Up to so many channels, groups are written as one."""

_MOST_TAPS = 64
"""Along the depth, where each is a slice of the input: more are more nodes than they are worth."""


class Conv3dAsConv2d(NamedTuple):
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


def can_be_conv2d(layer: QuantizedLayer) -> bool:
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
    return right and short and not slow and conv_axes(layer) is not None


def as_conv2d(layer: QuantizedLayer) -> Conv3dAsConv2d:
    """Restate a layer as a convolution of pictures.

    Args:
        layer: one that can_be_conv2d.
    Returns:
        the convolution.
    Raises:
        ValueError: the layer is no such convolution.
    """
    axes = conv_axes(layer)
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
    return Conv3dAsConv2d(
        weight, attributes, groups, depth.size, depth.stride, depth.dilation, pads
    )


def _one_group(weight: Array, groups: int) -> Array:
    """(out, in/groups, ...) -> (out, in, ...), zeros where another group's inputs are."""
    outputs, inputs, *kernel = weight.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *kernel), weight.dtype)
    each = np.arange(groups)
    whole[each, :, each] = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return whole.reshape(outputs, groups * inputs, *kernel)
