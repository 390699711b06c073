"""Zero points with which uint8 represents weights.

A weight here is q_w - zero_point_w: int8, or int16 in [-255, 255] if that exceeds int8.
"""

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.layer import output_rows
from bridge.export.read.qdq import NotQuantizedError

UINT8_SHIFT = 128
"""What is added to int8 codes and zero points to get the equivalent uint8 ones."""

_UINT8_RANGE = 255


def check_zero_points(weight: Array, op: str, groups: int) -> None:
    """Raise unless each output channel of a weight has one zero point.

    Args:
        weight: int8, or int16 in [-255, 255].
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: of a convolution.
    Raises:
        NotQuantizedError: the zero point varies within an output channel.
    """
    if not all(has_one_zero_point(row) for row in output_rows(weight, op, groups)):
        raise NotQuantizedError("its weight's zero point varies within an output channel")


def has_one_zero_point(weight: Array) -> bool:
    """Whether uint8 can represent all weights with a single zero point.

    Args:
        weight: int8, or int16 in [-255, 255].
    Returns:
        True for int8; for int16 if the weights and 0 lie within 255 of each other.
    """
    return weight.dtype == np.int8 or _range(weight) <= _UINT8_RANGE


def uint8_zero_point(weight: Array) -> int:
    """Return the zero point with which uint8 represents a weight.

    Args:
        weight: one that has_one_zero_point.
    Returns:
        128 for int8, else the smallest possible one.
    """
    return UINT8_SHIFT if weight.dtype == np.int8 else -min(int(weight.min(initial=0)), 0)


def split_weight(weight: Array) -> list[Array]:
    """Split a weight into parts that have one zero point each, and whose sum is the weight.

    Args:
        weight: int8, or int16 in [-255, 255].
    Returns:
        the weight itself if it has_one_zero_point, else two parts.
    """
    if has_one_zero_point(weight):
        return [weight]
    info = np.iinfo(np.int8)
    first = weight.clip(info.min, info.max)
    return [first.astype(np.int8), weight - first]


def _range(weight: Array) -> int:
    return max(int(weight.max(initial=0)), 0) - min(int(weight.min(initial=0)), 0)
