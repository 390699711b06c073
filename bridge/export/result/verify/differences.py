"""Comparing arrays in every bit."""

from dataclasses import dataclass

import numpy as np

from bridge.export.graph.constants import Array


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ.

    Args:
        count: number of values that differ in any bit; NaNs are equal to each other.
        total: number of values compared.
        largest: largest absolute difference, in the unit given to compare; infinite between a
            number and NaN.
    """

    count: int
    total: int
    largest: float


def compare(a: Array | None, b: Array | None, unit: Array | float = 1.0) -> Difference | None:
    """Compare two arrays bit by bit.

    Args:
        a: any array, or None.
        b: another array, or None; if its dtype is another, all values differ.
        unit: unit of the largest difference; broadcasts to their shape.
    Returns:
        the difference; None if an array is None or their shapes differ.
    """
    if a is None or b is None or a.shape != b.shape:
        return None
    unequal = _unequal(a, b)
    count = int(unequal.sum())
    largest = _distance(a, b, unequal, unit) if count else 0.0
    return Difference(count, a.size, largest)


def _unequal(a: Array, b: Array) -> Array:
    if a.dtype != b.dtype:
        return np.ones(a.shape, np.bool_)
    if a.dtype.kind not in "fciub":  # text
        return np.asarray(a != b)
    width = min(a.dtype.itemsize, 8)
    bits = [np.ascontiguousarray(x).reshape(*x.shape, 1).view(f"u{width}") for x in (a, b)]
    unequal = (bits[0] != bits[1]).any(axis=-1)
    return unequal & ~(np.isnan(a) & np.isnan(b)) if a.dtype.kind in "fc" else unequal


def _distance(a: Array, b: Array, unequal: Array, unit: Array | float) -> float:
    if not {a.dtype.kind, b.dtype.kind} <= set("fciub"):
        return np.inf
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    first, second = (x[unequal].astype(wide) for x in (a, b))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(first - second) / np.broadcast_to(unit, a.shape)[unequal]
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max())
