"""Weights as the unsigned bytes that integer operators take, with a zero point of their own.

    q_w - zero_point_w  with  q_w = weight + zero_point_w  in 0..255

int8 weights are counted 128 higher. Weights that other tools quantized around another zero point
reach from -255 to 255; one zero point holds each of their channels, and mostly all of them. Where
none does, the weight is a sum of two that have one each.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.read.zero_points import UINT8_SHIFT, uint8_zero_point


def byte_weight(
    builder: Builder, weight: Array, *, vnni: bool
) -> tuple[ir.Value | Array, np.generic]:
    """Write a weight for a kernel whose activations are uint8.

    Args:
        builder: writes the nodes.
        weight: one that has_one_zero_point.
        vnni: whether the kernel may get int8.
    Returns:
        the weight as uint8 or int8, and its zero point.
    """
    if vnni and weight.dtype == np.int8:
        return weight, np.int8(0)
    zero = np.uint8(uint8_zero_point(weight))
    if weight.dtype == np.int8:
        return unsigned_codes(builder, weight), zero
    return (weight + zero).astype(np.uint8), zero


def unsigned_codes(builder: Builder, integers: ir.Value | Array) -> ir.Value:
    """Write int8 codes as the uint8 codes that are 128 higher.

    Args:
        builder: writes the nodes.
        integers: int8.
    Returns:
        the same as uint8.
    """
    wide = builder.op("Cast", integers, to=ir.DataType.INT32)
    return builder.op("Cast", builder.op("Add", wide, np.int32(UINT8_SHIFT)), to=ir.DataType.UINT8)
