"""Distances from ties, and float32 numbers near a given one."""

from collections.abc import Iterator

import numpy as np

from qatfunc.codes.grids import Array, ValueGrid

_CHUNK = 64
"""How many adjustments are tried at once."""

_LARGEST_BITS = int(np.float32(np.finfo(np.float32).max).view(np.int32))


def check_bits(*grids: ValueGrid) -> None:
    """Raise unless all pairs of codes can be tried.

    Args:
        grids: of values.
    Raises:
        ValueError: a grid has more than 8 bits.
    """
    widest = max(grid.spec.bits for grid in grids)
    if widest > 8:
        raise ValueError(f"only values of at most 8 bits are proven, got {widest} bits")


def tie_distance(values: Array, grid: ValueGrid) -> Array:
    """Return how far values are from the nearest tie between two codes.

    Args:
        values: float64, results over scale, of any shape.
        grid: of the result.
    Returns:
        float64 of the same shape, in codes; infinity beyond the codes, where results saturate.
    """
    inside = (values > grid.low) & (values < grid.high)
    return np.where(inside, np.abs(values - np.floor(values) - 0.5), np.inf)


def nearest_first(max_ulps: int) -> Iterator[Array]:
    """Yield 0, 1, -1, 2, -2, ... up to max_ulps, in arrays; the first holds 0 alone.

    Args:
        max_ulps: largest magnitude.
    Returns:
        int64 arrays.
    Raises:
        ValueError: max_ulps is negative.
    """
    if max_ulps < 0:
        raise ValueError(f"max_ulps must not be negative, got {max_ulps}")
    every = np.arange(1, 2 * max_ulps + 2)
    signed = np.where(every % 2, -(every // 2), every // 2)
    yield from np.split(signed, range(1, len(signed), _CHUNK))


def adjusted(number: float, ulps: Array) -> Array:
    """Return the float32 numbers that are ulps away from one that is not negative.

    Args:
        number: a finite float32 number.
        ulps: int64 (n,).
    Returns:
        float64 (n,); NaN where there is no such number of this sign.

    >>> adjusted(1.0, np.array([0, 1])) - 1.0 == [0.0, 2.0**-23]
    array([ True,  True])
    """
    bits = int(np.float32(number).view(np.int32)) + ulps
    valid = (bits >= 0) & (bits <= _LARGEST_BITS)
    numbers = np.where(valid, bits, 0).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(valid, numbers, np.nan)
