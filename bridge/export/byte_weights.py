"""Weights as the unsigned bytes that integer operators take, with a zero point of their own.

    q_w - zero_point_w  with  q_w = weight + zero_point_w  in 0..255

int8 weights are counted 128 higher. Weights that other tools quantized around another zero point
reach from -255 to 255; one zero point holds each of their channels, and mostly all of them. Where
none does, the weight is a sum of two that have one each.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.layer import channels_first
from bridge.export.pairs import NotQuantizedError
from bridge.export.scribe import Scribe

_SHIFT = 128
_LARGEST = 255


def check_bytes(weight: Array, op: str, groups: int) -> None:
    """Raise unless a byte holds the weights of each output channel around one zero point.

    Args:
        weight: int8, or int16 counted from the zero point.
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: of a convolution.
    Raises:
        NotQuantizedError: the zero point varies within a channel.
    """
    if not all(has_zero_point(row) for row in channels_first(weight, op, groups)):
        raise NotQuantizedError("its weight's zero point varies within an output channel")


def has_zero_point(weight: Array) -> bool:
    """Whether a byte holds all weights around one zero point.

    Args:
        weight: int8, or int16 counted from the zero point.
    Returns:
        True for int8.
    """
    return weight.dtype == np.int8 or _reach(weight) <= _LARGEST


def zero_point_of(weight: Array) -> int:
    """Return the zero point around which uint8 holds a weight that has one.

    Args:
        weight: as has_zero_point takes it.
    Returns:
        128 for int8, else the least one.
    """
    return _SHIFT if weight.dtype == np.int8 else -min(int(weight.min(initial=0)), 0)


def parts_of(weight: Array) -> list[Array]:
    """Return weights that have a zero point each, and whose sum is a weight.

    Args:
        weight: as has_zero_point takes it.
    Returns:
        the weight itself where it has one, else two.
    """
    if has_zero_point(weight):
        return [weight]
    info = np.iinfo(np.int8)
    first = weight.clip(info.min, info.max)
    return [first.astype(np.int8), weight - first]


def byte_weight(
    scribe: Scribe, weight: Array, *, vnni: bool
) -> tuple[ir.Value | Array, np.generic]:
    """Write a weight for a kernel whose activations are uint8.

    Args:
        scribe: writes the nodes.
        weight: one that has_zero_point.
        vnni: whether the kernel may get int8.
    Returns:
        the weight as uint8 or int8, and its zero point.
    """
    if vnni and weight.dtype == np.int8:
        return weight, np.int8(0)
    zero = np.uint8(zero_point_of(weight))
    if weight.dtype == np.int8:
        return unsigned_codes(scribe, weight), zero
    return (weight + zero).astype(np.uint8), zero


def unsigned_codes(scribe: Scribe, integers: ir.Value | Array) -> ir.Value:
    """Write int8 codes as the uint8 codes that are 128 higher.

    Args:
        scribe: writes the nodes.
        integers: int8.
    Returns:
        the same as uint8.
    """
    wide = scribe.op("Cast", integers, to=ir.DataType.INT32)
    return scribe.op("Cast", scribe.op("Add", wide, np.int32(_SHIFT)), to=ir.DataType.UINT8)


def _reach(weight: Array) -> int:
    return max(int(weight.max(initial=0)), 0) - min(int(weight.min(initial=0)), 0)
