"""Step functions of accumulators: slopes with many ties, every sign, shifts and grids.

Structure is drawn, so it shrinks; the numbers of the channels come from a drawn seed.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from bridge.export.requantization.step_functions import FloatSteps, Grid
from tests.support.requantization.steps import random_steps

Draw = Any

SLOPES = ("ties", "wide", "flat", "extreme")


@st.composite
def grids(draw: Draw) -> Grid:
    """Return int8 or uint8, and fewer bits, with any zero point."""
    qmin = draw(st.sampled_from((-128, 0, -127, -2)))
    qmax = qmin + draw(st.sampled_from((255, 254, 15, 1)))
    return Grid(zero_point=draw(st.integers(qmin, qmax)), qmin=qmin, qmax=qmax)


@st.composite
def step_functions(draw: Draw, *, bound: int, shifts: tuple[str, ...] = ("none",)) -> FloatSteps:
    """Return one to six channels whose steps lie within the bound, beyond it, or nowhere."""
    low = draw(st.sampled_from((-np.inf, 0.0, -1.0, 0.5)))
    high = draw(st.sampled_from((np.inf, 6.0, 0.5)))
    return random_steps(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(grids()),
        channels=draw(st.integers(1, 6)),
        bound=bound,
        slope=draw(st.sampled_from(SLOPES)),
        shift=draw(st.sampled_from(shifts)),
        activation=(low, high),
    )
