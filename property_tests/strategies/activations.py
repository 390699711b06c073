"""Ranges, and values inside, outside and on the ties of their grids."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from torch import Tensor

from property_tests.strategies.grids import _scales, activation_specs
from property_tests.strategies.tensors import EPS, _fractions, integers, numbers, shapes
from qatfunc import ActivationSpec, Clip

# Activations

RANGES = [(255, 0), (127, -128), (1, -1), (100, -27), (3, -7), (0, -5)]
EXTREME_STEPS = [2.0**-100, EPS / 2, EPS / 255, 1e6]


@cache
def any_clips() -> SearchStrategy[Clip]:
    """Whatever training may have made of a range."""
    tiny = st.sampled_from([0.0, 1.0, EPS, -EPS, 2.0**-100])
    ends = tiny.map(torch.tensor) | integers(shape=()).map(lambda n: _fractions(n, 100.0))
    return st.builds(Clip, max=ends, min=ends)


BEYOND = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 2.0**65, -(2.0**64)]


@cache
def broken_clips() -> SearchStrategy[Clip]:
    """The same, with an end that diverged or both."""
    beyond = st.sampled_from(BEYOND).map(torch.tensor)
    ends = beyond | integers(shape=()).map(lambda n: _fractions(n, 100.0))
    return any_clips() | st.builds(Clip, max=ends, min=ends)


@cache
def clips(*, extreme: bool = True) -> SearchStrategy[Clip]:
    """Valid ranges: max >= 0 >= min and max > min; extreme ones are very wide or very narrow."""

    def clip(n: NDArray[np.int64]) -> Clip:
        size = _scales(n[1:])[0]
        if extreme and n[1] % 5 == 4:
            size = np.float32(EXTREME_STEPS[n[1] % len(EXTREME_STEPS)])
        high, low = RANGES[n[0] % len(RANGES)]
        return Clip(torch.tensor(size * np.float32(high)), torch.tensor(size * np.float32(low)))

    return integers(shape=(2,)).map(clip)


class Activation(NamedTuple):
    x: Tensor
    clip: Clip
    spec: ActivationSpec


@st.composite
def activations(draw: DrawFn, *, extreme: bool = True) -> Activation:
    """A range and values inside, outside and on the ties of its grid."""
    spec, clip = draw(activation_specs()), draw(clips(extreme=extreme))
    shape = draw(shapes(min_dims=1, max_dims=3, max_side=3))
    step = float(clip.max - clip.min) / spec.steps
    return Activation(draw(numbers(shape=shape, reach=2 * spec.steps)) * step, clip, spec)
