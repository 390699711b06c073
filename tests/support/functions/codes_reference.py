"""The operators between quantizers in NumPy, written from the formulas alone.

Integers are int64 relative to the zero point; float32 appears only where the formulas say so.
Nothing here comes from qatfunc.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F32 = np.float32


class Grid(NamedTuple):
    """A quantized value: n * scale for low <= n <= high."""

    scale: np.float32
    low: int
    high: int


def rounded(values: Array, grid: Grid, limits: tuple[float, float] | None = None) -> Array:
    """Round values over scale to codes, limit them, and return the numbers they represent."""
    n = np.clip(np.rint(values), grid.low, grid.high)
    if limits is not None:
        with np.errstate(over="ignore"):
            n = np.clip(n, *(np.rint(F32(end) / grid.scale) for end in limits))
    return (n.astype(np.int64).astype(F32) * grid.scale).astype(F32)


def add(a: Array, b: Array, factors: tuple[Array, Array], grid: Grid, limits: Any = None) -> Array:
    """Sums of integers by factors: two products and a sum, each rounded to float32."""
    first, second = (n.astype(F32) * F32(f) for n, f in zip((a, b), factors, strict=True))
    return rounded(first + second, grid, limits)


def mul(a: Array, b: Array, multiplier: Array, grid: Grid, limits: Any = None) -> Array:
    """Exact products of integers, and one multiplication in float32."""
    return rounded((a * b).astype(F32) * F32(multiplier), grid, limits)


def average(n: Array, axes: tuple[int, ...], rescale: Array, grid: Grid) -> Array:
    """Exact sums of integers over axes, rescaled and divided in float32."""
    return rounded(n.sum(axes).astype(F32) * F32(rescale) / grid.scale, grid)


def pool(
    n: Array,
    window: tuple[Sequence[int], Sequence[int], Sequence[int]],
    rescale: Array,
    grid: Grid,
) -> Array:
    """Exact sums of windows (kernel, stride, padding) without ceil_mode."""
    kernel, stride, padding = window
    padded = np.pad(n, [(0, 0), (0, 0), *((p, p) for p in padding)])
    sizes = [
        (size - k) // s + 1 for size, k, s in zip(padded.shape[2:], kernel, stride, strict=True)
    ]
    sums = np.zeros((*n.shape[:2], *sizes), np.int64)
    for at in np.ndindex(*sizes):
        part = tuple(slice(i * s, i * s + k) for i, s, k in zip(at, stride, kernel, strict=True))
        sums[(..., *at)] = padded[(..., *part)].sum(tuple(range(2, n.ndim)))
    return rounded(sums.astype(F32) * F32(rescale) / grid.scale, grid)


def prelu(n: Array, scale: Array, weight: Array, grid: Grid) -> Array:
    """A product where x is negative, and a quotient, each rounded to float32."""
    x = n.astype(F32) * F32(scale)
    slopes = weight.reshape(-1, *(1,) * (n.ndim - 2))
    return rounded(np.where(x < 0, x * slopes, x) / grid.scale, grid)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FUNCTIONS: dict[str, Callable[[float, float], float]] = {
    "relu": lambda x, _: max(x, 0.0),
    "leaky_relu": lambda x, slope: x if x > 0 else float(F32(slope)) * x,
    "sigmoid": lambda x, _: _sigmoid(x),
    "tanh": lambda x, _: math.tanh(x),
    "silu": lambda x, _: x * _sigmoid(x),
    "gelu": lambda x, _: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x, _: _gelu_tanh(x),
    "hardswish": lambda x, _: x * min(max(x + 3, 0.0), 6.0) / 6,
    "hardsigmoid": lambda x, _: min(max(x + 3, 0.0), 6.0) / 6,
    "softplus": lambda x, _: _softplus(x),
    "elu": lambda x, alpha: x if x > 0 else alpha * math.expm1(x),
    "mish": lambda x, _: x * math.tanh(_softplus(x)),
}
"""The activation functions in float64, of x and their parameter."""


def unary(name: str, parameter: float, n: Array, scale: Array, grid: Grid) -> Array:
    """A function of float32 numbers in float64, rounded once."""
    x = (n.astype(F32) * F32(scale)).astype(np.float64)
    results = [FUNCTIONS[name](value, parameter) for value in x.ravel().tolist()]
    return rounded(np.array(results).reshape(n.shape) / float(grid.scale), grid)
