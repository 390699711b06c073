"""A layer's operator on integer-valued floats, as ONNX Runtime takes it.

ONNX Runtime refuses a ConvTranspose whose output_padding is not less than its stride, which torch
and ONNX allow below the dilation. What output_padding adds, padding cuts off at the same end:

    ConvTranspose(pads_end = p, output_padding = o)  =  ConvTranspose(p - m, o - m),  m = min(o, p)

and what is left, where nothing is cut, are zeros, which a Pad adds.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.layer import QuantizedLayer
from bridge.export.scribe import Scribe


def write_operator(
    scribe: Scribe,
    layer: QuantizedLayer,
    x: ir.Value,
    weight: Array | ir.Value,
    bias: Array | None = None,
) -> ir.Value:
    """Write the operator.

    Args:
        scribe: writes the nodes.
        layer: the layer.
        x: integer-valued floats, 0 for the zero point.
        weight: integer-valued floats.
        bias: integer-valued floats (out,), or None to sum without.
    Returns:
        the sums.
    """
    attributes = dict(layer.attributes)
    operands = [x, weight] if bias is None else [x, weight, bias]
    padding = attributes.get("output_padding")
    if not padding or not layer.fixed_padding:
        return scribe.op(layer.op, *operands, **attributes)
    pads = attributes.get("pads") or [0, 0] * len(padding)
    strides = attributes.get("strides", [1] * len(padding))
    attributes["pads"], attributes["output_padding"], zeros = fit_to_stride(strides, pads, padding)
    y = scribe.op(layer.op, *operands, **attributes)
    if not any(zeros):
        return y
    return scribe.op("Pad", y, np.array([0] * (len(padding) + 4) + zeros, np.int64))


def fit_to_stride(
    strides: Sequence[int], pads: Sequence[int], output_padding: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Restate a transposed convolution so that output_padding is less than the stride.

    Args:
        strides: one an axis.
        pads: starts, then ends.
        output_padding: one an axis.
    Returns:
        pads, output_padding, and the zeros to add at the end of each axis.

    >>> fit_to_stride([1, 2], [1, 0, 1, 0], [2, 1])
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
