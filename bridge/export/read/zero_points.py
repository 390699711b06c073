"""Zero points around which a byte holds weights."""

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.layer import output_rows
from bridge.export.read.qdq import NotQuantizedError

UINT8_SHIFT = 128


_LARGEST = 255


def check_zero_points(weight: Array, op: str, groups: int) -> None:
    """Raise unless a byte holds the weights of each output channel around one zero point.

    Args:
        weight: int8, or int16 counted from the zero point.
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: of a convolution.
    Raises:
        NotQuantizedError: the zero point varies within a channel.
    """
    if not all(has_one_zero_point(row) for row in output_rows(weight, op, groups)):
        raise NotQuantizedError("its weight's zero point varies within an output channel")


def has_one_zero_point(weight: Array) -> bool:
    """Whether a byte holds all weights around one zero point.

    Args:
        weight: int8, or int16 counted from the zero point.
    Returns:
        True for int8.
    """
    return weight.dtype == np.int8 or _reach(weight) <= _LARGEST


def uint8_zero_point(weight: Array) -> int:
    """Return the zero point around which uint8 holds a weight that has one.

    Args:
        weight: as has_one_zero_point takes it.
    Returns:
        128 for int8, else the least one.
    """
    return UINT8_SHIFT if weight.dtype == np.int8 else -min(int(weight.min(initial=0)), 0)


def split_weight(weight: Array) -> list[Array]:
    """Return weights that have a zero point each, and whose sum is a weight.

    Args:
        weight: as has_one_zero_point takes it.
    Returns:
        the weight itself where it has one, else two.
    """
    if has_one_zero_point(weight):
        return [weight]
    info = np.iinfo(np.int8)
    first = weight.clip(info.min, info.max)
    return [first.astype(np.int8), weight - first]


def _reach(weight: Array) -> int:
    return max(int(weight.max(initial=0)), 0) - min(int(weight.min(initial=0)), 0)
