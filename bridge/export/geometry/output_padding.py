"""Transposed convolutions whose output_padding is valid for ONNX Runtime.

ONNX Runtime rejects a ConvTranspose whose output_padding is not less than its stride; torch and
ONNX allow it below the dilation. output_padding adds positions where the end padding removes them:

    ConvTranspose(pads_end = p, output_padding = o)  =  ConvTranspose(p - m, o - m),  m = min(o, p)

If o > p, zeros at the end of the kernel add the remaining positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer


def with_valid_output_padding(layer: QuantizedLayer) -> QuantizedLayer:
    """Return an equivalent layer whose float operator ONNX Runtime accepts.

    Args:
        layer: any layer.
    Returns:
        the layer itself, or a transposed convolution with a larger kernel and other attributes.
    """
    if layer.op != "ConvTranspose":
        return layer
    weight, attributes = pad_kernel(layer.weight, layer.attributes)
    return layer if weight is layer.weight else replace(layer, weight=weight, attributes=attributes)


def reduce_output_padding(
    strides: Sequence[int], pads: Sequence[int], output_padding: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Reduce output_padding below the stride.

    Args:
        strides: one per axis.
        pads: of the starts of all axes, then of their ends.
        output_padding: one per axis.
    Returns:
        pads; output_padding; and the positions still to be added at the end of each axis.

    >>> reduce_output_padding([1, 2], [1, 0, 1, 0], [2, 1])
    ([1, 0, 0, 0], [0, 1], [1, 0])
    """
    spatial = len(output_padding)
    pads, kept, zeros = list(pads), list(output_padding), [0] * spatial
    for axis, stride in enumerate(strides):
        if kept[axis] >= stride:
            cancelled = min(kept[axis], pads[spatial + axis])
            pads[spatial + axis] -= cancelled
            kept[axis], zeros[axis] = 0, kept[axis] - cancelled
    return pads, kept, zeros


def pad_kernel(weight: Array, attributes: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Append zeros to the kernel of a transposed convolution, so that ONNX Runtime accepts it.

    Zeros at the end of the kernel add the output positions that reduce_output_padding leaves, and
    padding cuts off the surplus. So the bias is added everywhere, and no output is empty before it
    is padded.

    Args:
        weight: (in, out/groups, ...).
        attributes: of the ConvTranspose.
    Returns:
        the weight and the attributes, unchanged if they are valid.
    """
    given = dict(attributes)
    taps, new = kernel_padding(given)
    if new is given:
        return weight, given
    weight = np.pad(weight, [(0, 0), (0, 0), *((0, count) for count in taps)])
    return weight, new | {"kernel_shape": list(weight.shape[2:])}


FITTED_ATTRIBUTES = {"pads", "output_padding", "kernel_shape"}
"""Attributes that kernel_padding may change."""


def kernel_padding(given: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """Return the zeros to append to a kernel so that ONNX Runtime accepts the operator.

    Args:
        given: attributes of a ConvTranspose.
    Returns:
        the number of zeros per axis, and the attributes with which they are valid; [] and `given`
        itself if nothing is to be changed.
    """
    padding = given.get("output_padding")
    fixed = (given.get("auto_pad") or "NOTSET") == "NOTSET" and not given.get("output_shape")
    if not padding or not fixed:
        return [], given
    ones = [1] * len(padding)
    strides, dilations = (given.get(name) or ones for name in ("strides", "dilations"))
    if not _is_geometry(padding, strides, dilations):
        return [], given  # invalid in ONNX too
    if all(more < stride for more, stride in zip(padding, strides, strict=True)):
        return [], given
    pads, kept, zeros = reduce_output_padding(
        strides, given.get("pads") or [0, 0] * len(ones), padding
    )
    taps = [-(-zero // dilation) for zero, dilation in zip(zeros, dilations, strict=True)]
    for axis, (zero, dilation) in enumerate(zip(zeros, dilations, strict=True)):
        pads[len(zeros) + axis] += taps[axis] * dilation - zero
    new = given | {"pads": pads, "output_padding": kept}
    if "kernel_shape" in given:
        sizes = zip(given["kernel_shape"], taps, strict=True)
        new["kernel_shape"] = [size + more for size, more in sizes]
    return taps, new


def _is_geometry(padding: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> bool:
    """Whether lists have the same length, and output_padding is less than stride or dilation."""
    if not len(padding) == len(strides) == len(dilations):
        return False
    each = zip(padding, strides, dilations, strict=True)
    return all(
        0 <= more < max(stride, dilation) and dilation > 0 for more, stride, dilation in each
    )
