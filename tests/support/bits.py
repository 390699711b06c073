"""Equality of every bit, the sign of zero included."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def same_bits(a: Any, b: Any) -> bool:
    """Whether two float32 tensors, or two arrays of any type, are the same."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype == torch.float32 and torch.equal(
            a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
        )
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of any type are the same."""
    return a.dtype == b.dtype and same_bits(a.numpy(), b.numpy())


def same_state(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two checkpoints hold the same names with the same bits."""
    return list(first) == list(second) and all(
        same_bytes(value, second[name]) for name, value in first.items()
    )


def assert_same_bits(actual: Array, expected: Array, what: str) -> None:
    """Compare float32 arrays, and say where they differ first."""
    assert actual.dtype == expected.dtype == np.float32, what
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    a, b = (np.ascontiguousarray(array).view(np.int32) for array in (actual, expected))
    wrong = np.argwhere(a != b)
    if len(wrong):
        where = tuple(wrong[0])
        raise AssertionError(
            f"{what}: {len(wrong)} of {a.size} values differ, first at {where}: "
            f"{actual[where]!r} is not {expected[where]!r}"
        )


def has_negative_zero(x: Tensor) -> bool:
    """Whether one of the zeros is negative."""
    return bool(((x == 0) & torch.signbit(x)).any())
