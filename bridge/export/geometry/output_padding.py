"""Transposed convolutions as ONNX Runtime takes them.

It refuses a ConvTranspose whose output_padding is not less than its stride, which torch and ONNX
allow below the dilation. What output_padding adds, padding cuts off at the same end:

    ConvTranspose(pads_end = p, output_padding = o)  =  ConvTranspose(p - m, o - m),  m = min(o, p)

and what is left, where nothing is cut, taps of 0 at the kernel's end add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer


def with_valid_output_padding(layer: QuantizedLayer) -> QuantizedLayer:
    """Restate a layer so that ONNX Runtime takes its operator in float.

    Args:
        layer: any layer.
    Returns:
        the layer itself, or a transposed convolution with more taps and other attributes.
    """
    if layer.op != "ConvTranspose":
        return layer
    weight, attributes = pad_kernel(layer.weight, layer.attributes)
    return layer if weight is layer.weight else replace(layer, weight=weight, attributes=attributes)


def reduce_output_padding(
    strides: Sequence[int], pads: Sequence[int], output_padding: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Restate a transposed convolution so that output_padding is less than the stride.

    Args:
        strides: one an axis.
        pads: starts, then ends.
        output_padding: one an axis.
    Returns:
        pads, output_padding, and the zeros to add at the end of each axis.

    >>> reduce_output_padding([1, 2], [1, 0, 1, 0], [2, 1])
    ([1, 0, 0, 0], [0, 1], [1, 0])
    """
    spatial = len(output_padding)
    pads, kept, zeros = list(pads), list(output_padding), [0] * spatial
    for axis, stride in enumerate(strides):
        if kept[axis] >= stride:
            moved = min(kept[axis], pads[spatial + axis])
            pads[spatial + axis] -= moved
            kept[axis], zeros[axis] = 0, kept[axis] - moved
    return pads, kept, zeros


def pad_kernel(weight: Array, attributes: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
    """Restate a transposed convolution so that ONNX Runtime takes it.

    Zeros at the end of the kernel add the output positions that reduce_output_padding leaves, and
    padding cuts off the surplus. So the bias is added everywhere, and no output is empty before it
    is padded.

    Args:
        weight: in the operator's own layout.
        attributes: the operator's own.
    Returns:
        the weight and the attributes; both as they are for other operators.
    """
    given = dict(attributes)
    taps, new = kernel_padding(given)
    if new is given:
        return weight, given
    weight = np.pad(weight, [(0, 0), (0, 0), *((0, count) for count in taps)])
    return weight, new | {"kernel_shape": list(weight.shape[2:])}


FITTED_ATTRIBUTES = {"pads", "output_padding", "kernel_shape"}


def kernel_padding(given: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """Return how many taps of 0 an operator needs, and its attributes then, the same if none."""
    padding = given.get("output_padding")
    fixed = (given.get("auto_pad") or "NOTSET") == "NOTSET" and not given.get("output_shape")
    if not padding or not fixed:
        return [], given
    ones = [1] * len(padding)
    strides, dilations = (given.get(name) or ones for name in ("strides", "dilations"))
    if not _is_geometry(padding, strides, dilations):
        return [], given  # nothing that an operator takes
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
    """Whether lists are of one length, and output_padding is less than stride or dilation."""
    if not len(padding) == len(strides) == len(dilations):
        return False
    each = zip(padding, strides, dilations, strict=True)
    return all(
        0 <= more < max(stride, dilation) and dilation > 0 for more, stride, dilation in each
    )
