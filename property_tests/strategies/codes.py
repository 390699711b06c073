"""Quantized values whose sums, products and functions are near ties.

Random scales hardly ever make ties. Dyadic ratios of scales make them in thousands of pairs, and an
odd zero point shows whether it is added before or after rounding.
"""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from property_tests.strategies.tensors import SEEDS
from qatfunc import ActivationSpec, Clip, QParams
from qatfunc.codes import FUNCTIONS, Activation, Output, ValueGrid

PARAMETERS = {"leaky_relu": 0.1, "elu": 1.0}
FUNCTION = st.sampled_from([Activation(name, PARAMETERS.get(name, 0.0)) for name in FUNCTIONS])
_ZERO_POINTS = st.sampled_from([-128, -127, -1, 0, 1, 3, 77, 126, 127]) | st.integers(-128, 127)
_MULTIPLES = st.sampled_from([1.0, 1.0, 1.0, 3.0, 5.0, 255.0, 1 + 2.0**-23, 1 - 2.0**-24])


@st.composite
def _numbers(draw: DrawFn, low: int, high: int) -> float:
    """float32 numbers around 2^low to 2^high: powers of two, small multiples of them, or any."""
    exponent = draw(st.integers(low, high))
    fraction = draw(_MULTIPLES | st.floats(1.0, 2.0, width=32))
    return float(np.float32(fraction * 2.0**exponent / (256 if fraction == 255 else 1)))


@st.composite
def value_grids(draw: DrawFn, *, low: int = -12, high: int = 2) -> ValueGrid:
    """A value of 8 bits."""
    return ValueGrid(scale=draw(_numbers(low, high)), zero_point=draw(_ZERO_POINTS))


class Operands(NamedTuple):
    """Two values and a result."""

    a: ValueGrid
    b: ValueGrid
    y: ValueGrid

    @property
    def zeros(self) -> tuple[tuple[int, int], int]:
        """Zero points of operands and result, as uint8 codes."""
        return (-self.a.low, -self.b.low), -self.y.low


@st.composite
def sums(draw: DrawFn) -> Operands:
    """Operands whose ratios to the result are from 2^-5 to 2^2."""
    y = draw(value_grids())
    a, b = (draw(value_grids(low=-5, high=1)) for _ in range(2))
    return Operands(*(_scaled(one, one.scale * y.scale) for one in (a, b)), y)


@st.composite
def products(draw: DrawFn) -> Operands:
    """Operands whose multiplier is from 2^-12 to 2."""
    a, b = draw(value_grids(low=-9)), draw(value_grids(low=-9))
    y = draw(value_grids(low=0, high=12))
    return Operands(a, b, _scaled(y, y.scale * a.scale * b.scale))


@st.composite
def arguments(draw: DrawFn) -> ValueGrid:
    """Arguments of an activation function: up to 0.06 or 32 in magnitude."""
    return draw(value_grids(low=-12, high=-3))


@st.composite
def results(draw: DrawFn, function: Activation, x: ValueGrid) -> ValueGrid:
    """The result's grid: its range of values, a part of it, or a power of two near."""
    values = function(torch.from_numpy(x.integers * x.scale)).numpy()
    high, low = max(values.max(), 2.0**-12), min(values.min(), 0.0)
    scale = (high - low) / 255 * draw(st.sampled_from([1.0, 1.0, 0.7, 1.3]))
    if draw(st.booleans()):
        scale = 2.0 ** np.ceil(np.log2(scale))
    zero_point = int(np.clip(np.rint(-128 - low / scale), -128, 127))
    return ValueGrid(scale=float(np.float32(scale)), zero_point=zero_point)


def _scaled(grid: ValueGrid, scale: float) -> ValueGrid:
    return ValueGrid(scale=float(np.float32(scale)), zero_point=grid.zero_point)


def qparams_of(grid: ValueGrid) -> QParams:
    """The grid as tensors."""
    return QParams(torch.tensor(grid.scale), torch.tensor(float(grid.zero_point)))


def output_on(grid: ValueGrid) -> Output:
    """A result of this grid, whose range ends at its extreme codes."""
    high, low = (max(grid.high, 0), min(grid.low, 0))
    ends = torch.tensor([high, low], dtype=torch.float32) * grid.scale
    return Output(Clip(ends[0], ends[1]), qparams_of(grid))


def dequantized(n: torch.Tensor, grid: ValueGrid) -> torch.Tensor:
    """The float32 numbers of integers relative to the zero point."""
    return n.to(torch.float32) * torch.tensor(grid.scale)


@st.composite
def some_integers(draw: DrawFn, grid: ValueGrid, shape: tuple[int, ...]) -> torch.Tensor:
    """Integers of a grid by a seed, in float32; the ends of the grid are frequent."""
    random = np.random.default_rng(draw(SEEDS))
    n = random.integers(grid.low - 40, grid.high + 41, shape)
    return torch.from_numpy(np.clip(n, grid.low, grid.high).astype(np.float32))


SPEC = ActivationSpec()
LIMITS: SearchStrategy[tuple[float, float]] = st.sampled_from(
    [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-0.5, 2.0)]
)
