"""Numbers, shapes and tensors."""

import math
from functools import cache
from itertools import product

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray
from torch import Tensor

EPS = 2.0**-23
Shape = tuple[int, ...]


# Numbers, shapes, tensors


def powers_of_two(*, low: int, high: int) -> SearchStrategy[float]:
    return st.integers(low, high).map(lambda exponent: 2.0**exponent)


@cache
def shapes(*, min_dims: int, max_dims: int, max_side: int) -> SearchStrategy[Shape]:
    every = [
        shape
        for dims in range(min_dims, max_dims + 1)
        for shape in product(range(1, max_side + 1), repeat=dims)
    ]
    return st.sampled_from(sorted(every, key=math.prod))


@cache
def integers(*, shape: Shape) -> SearchStrategy[NDArray[np.int64]]:
    """32-bit integers."""
    size = 4 * math.prod(shape)
    raw = st.binary(min_size=size, max_size=size)
    return raw.map(lambda data: np.frombuffer(data, "<i4").reshape(shape).astype(np.int64))


def _fold(n: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """Integers from low to high; 0 stays 0."""
    return np.remainder(n - low, high - low + 1) + low


def _fractions(n: NDArray[np.int64], reach: float) -> Tensor:
    """Numbers from -reach to reach."""
    return torch.as_tensor(n.astype(np.float32) * np.float32(reach * 2.0**-31))


def _numbers(n: NDArray[np.int64], reach: int) -> Tensor:
    """From -reach to reach, one fewer than n: multiples of 0.5, half of them ties, or anything."""
    if n[0] % 2:
        return _fractions(n[1:], reach)
    return torch.from_numpy(_fold(n[1:], -2 * reach, 2 * reach)).float() / 2


@cache
def numbers(*, shape: Shape, reach: int) -> SearchStrategy[Tensor]:
    """All on multiples of 0.5, or none in particular, from -reach to reach."""
    drawn = integers(shape=(1 + math.prod(shape),))
    return drawn.map(lambda n: _numbers(n, reach).reshape(shape))


SEEDS = st.integers(0, 2**16)


def permutations(*, count: int) -> SearchStrategy[Tensor]:
    return st.permutations(range(count)).map(torch.tensor)


@cache
def dense_tensors(*, shape: Shape) -> SearchStrategy[Tensor]:
    """Many elements by one seed: multiples of 0.5, between them, mostly zero, or very large."""
    return st.integers(0, 2**18).map(lambda n: _dense(shape, n % 4, n // 4))


def _dense(shape: Shape, kind: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    if kind == 0:
        return torch.from_numpy((random.integers(-300, 300, shape) / 2).astype(np.float32))
    values = random.normal(size=shape) * (1e5 if kind == 3 else 60)
    if kind == 2:
        values = values * (random.random(shape) < 0.2)
    return torch.from_numpy(values.astype(np.float32))
