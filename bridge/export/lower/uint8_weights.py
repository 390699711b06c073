"""Weights as uint8, which the integer operators take, with a zero point.

    DequantizeLinear(weight, int8)
        becomes
    weight, int8 -> Cast(int32) -> Add(128) -> Cast(uint8), zero point 128

so that uint8 code - zero point = weight. ONNX Runtime folds these nodes at load time, and the file
keeps int8. Weights that other tools quantized with another zero point lie in -255..255 after
subtracting it; they are stored as uint8 with a zero point that fits all channels. If none fits
all, the weight is split into the sum of two weights that each have one (read.zero_points).
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.read.zero_points import UINT8_SHIFT, uint8_zero_point


def write_weight(
    builder: Builder, weight: Array, *, vnni: bool
) -> tuple[ir.Value | Array, np.generic]:
    """Write a weight for an integer operator whose activations are uint8.

    Args:
        builder: writes the nodes.
        weight: one that has_one_zero_point.
        vnni: whether the weight may stay int8.
    Returns:
        the weight as uint8 or int8 of the same shape, and its zero point of that type.
    """
    if vnni and weight.dtype == np.int8:
        return weight, np.int8(0)
    zero = np.uint8(uint8_zero_point(weight))
    if weight.dtype == np.int8:
        return write_uint8_codes(builder, weight), zero
    return (weight + zero).astype(np.uint8), zero


def write_uint8_codes(builder: Builder, integers: ir.Value | Array) -> ir.Value:
    """Write int8 codes as uint8, q + 128.

    Args:
        builder: writes the nodes.
        integers: int8, any shape.
    Returns:
        uint8 codes of the same shape.
    """
    wide = builder.op("Cast", integers, to=ir.DataType.INT32)
    return builder.op("Cast", builder.op("Add", wide, np.int32(UINT8_SHIFT)), to=ir.DataType.UINT8)
