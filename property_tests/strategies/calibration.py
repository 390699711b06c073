"""Searches, and values of one activation in batches."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from torch import Tensor

from property_tests.strategies.tensors import numbers
from qatfunc import SearchSpec

# Calibration


@cache
def search_specs(*, step: float = 0.05) -> SearchStrategy[SearchSpec]:
    """IFMR's searches over 12 or 20 candidates; a step of 0.01 makes 61 of them."""
    return st.builds(
        SearchSpec,
        method=st.just("ifmr"),
        symmetric=st.booleans(),
        step=st.just(step),
        **_percentiles_and_start(),
    )


@cache
def searches_of_both_ends(*, step: float = 0.05) -> SearchStrategy[SearchSpec]:
    """Searches of both ends over 12 or 20 candidates each."""
    return st.builds(SearchSpec, step=st.just(step), **_percentiles_and_start())


@cache
def any_searches() -> SearchStrategy[SearchSpec]:
    """Searches of every method."""
    return search_specs() | searches_of_both_ends()


def _percentiles_and_start() -> dict[str, SearchStrategy[float]]:
    percentiles = st.sampled_from([0.999999, 1.0, 0.9, 0.75])
    start = st.sampled_from([0.7, 0.3])
    return {"max_percentile": percentiles, "min_percentile": percentiles, "start": start}


@st.composite
def samples(draw: DrawFn, *, max_size: int = 40) -> Tensor:
    """Values of one activation: anything, one-sided, or mostly small with an outlier."""
    values = draw(numbers(shape=(draw(st.integers(1, max_size)),), reach=10))
    kind = draw(st.sampled_from(["any", "relu", "negative", "outlier"]))
    if kind == "relu":
        return torch.relu(values)
    if kind == "negative":
        return -values.abs()
    if kind == "outlier":
        values[0] = 50.0
    return values


@st.composite
def splits(draw: DrawFn, *, size: int) -> list[int]:
    """Lengths of one to four batches that make up size."""
    cuts = draw(st.lists(st.integers(1, size), max_size=3, unique=True))
    ends = [0, *sorted({*cuts, size})]
    return [after - before for before, after in pairwise(ends)]


LARGE = ["normal", "relu", "laplace", "uniform", "outliers", "growing", "shrinking"]


@st.composite
def large_batches(draw: DrawFn) -> list[Tensor]:
    """About 100,000 values in batches, more than calibration keeps as they are."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind, count = draw(st.sampled_from(LARGE)), draw(st.integers(1, 5))
    return _large_batches(random, kind, 100_000 // count, count)


def large_batches_of(random: np.random.Generator, *, size: int) -> list[Tensor]:
    """The same as many as wanted, where what counts is how often something holds."""
    count = int(random.integers(1, 6))
    return _large_batches(random, str(random.choice(LARGE)), -(-size // count), count)


def _large_batches(random: np.random.Generator, kind: str, size: int, count: int) -> list[Tensor]:
    batches = [_large_batch(random, kind, size, index) for index in range(count)]
    return [torch.from_numpy(batch.astype(np.float32)) for batch in batches]


def _large_batch(
    random: np.random.Generator, kind: str, size: int, index: int
) -> NDArray[np.float64]:
    if kind == "uniform":
        return random.uniform(-1, 3, size)
    if kind == "laplace":
        return random.laplace(size=size)
    values = random.normal(size=size)
    if kind == "relu":
        return np.maximum(values - 1.3, 0)  # nine of ten are 0
    if kind == "outliers":
        values[: 1 + index] *= 50
    return values * {"growing": 3.0**index, "shrinking": 3.0**-index}.get(kind, 1.0)
