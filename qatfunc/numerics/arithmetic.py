"""float32 arithmetic on tensors and on Python floats, so that one formula serves both.

A sum, difference, product or quotient of two float32 numbers, computed in float64 and rounded to
float32, is what float32 arithmetic gives (53 >= 2 * 24 + 2 bits). So a formula that rounds each
result by `Arithmetic.float32` has the same bits on Python floats as on float32 tensors, where
chains of operators on one element would cost more than a small layer does.
"""

import math
import struct
from collections.abc import Callable
from ctypes import c_float
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", float, Tensor)
"""A float32 number: a Python float that float32 holds, or a tensor."""


class Arithmetic(NamedTuple):
    """The operations of a formula besides +, -, *, / and comparisons."""

    where: Callable[[Any, Any, Any], Any]
    """where(condition, a, b), as torch.where."""
    nearest: Callable[[Any], Any]
    """Round to an integer, ties to even; infinity and NaN stay unchanged."""
    float32: Callable[[Any], Any]
    """Round the result of one operation to float32."""
    full_like: Callable[[Any, float], Any]
    """full_like(x, value): a number like x with this value."""


def to_float32(value: float) -> float:
    """Round to the nearest float32, to infinity beyond the largest."""
    return c_float(value).value


def next_float32(value: float) -> float:
    """Return the smallest float32 above a float32 that is not negative.

    Args:
        value: a float32 number; infinity and NaN have none above them.
    Returns:
        a float32 number, for infinity and NaN the same.

    >>> next_float32(1.0) == 1.0 + 2.0**-23
    True
    """
    if not math.isfinite(value):
        return value
    bits = struct.unpack("<i", struct.pack("<f", value + 0.0))[0]  # -0.0 becomes 0.0
    return float(struct.unpack("<f", struct.pack("<i", bits + 1))[0])


def round_half_even(value: float) -> float:
    """Round to an integer, ties to even; infinity and NaN stay unchanged."""
    return float(round(value)) if math.isfinite(value) else value


def _where(condition: bool, a: float, b: float) -> float:
    return a if condition else b


def _second(_: float, value: float) -> float:
    return value


def _as_it_is(value: Tensor) -> Tensor:
    return value


TENSORS = Arithmetic(torch.where, torch.round, _as_it_is, torch.full_like)
"""Arithmetic of float32 tensors."""

FLOATS = Arithmetic(_where, round_half_even, to_float32, _second)
"""Arithmetic of Python floats that are float32 numbers."""


def arithmetic_of(number: float | Tensor) -> Arithmetic:
    """Return the arithmetic of a number.

    Args:
        number: a Python float or a float32 tensor.
    Returns:
        FLOATS or TENSORS.
    """
    return TENSORS if isinstance(number, Tensor) else FLOATS
