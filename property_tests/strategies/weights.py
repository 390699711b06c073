"""Weights with ties, rows of zeros and rows too small for a scale."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from property_tests.strategies.tensors import _numbers, integers, shapes

# Weights

ROW_SIZES = np.array([1.0, 0.0, 2.0**-28, 2.0**10, 0.3], np.float32)


class Weight(NamedTuple):
    weight: Tensor
    transposed: bool
    groups: int

    @property
    def layout(self) -> dict[str, Any]:
        return {"transposed": self.transposed, "groups": self.groups}


@st.composite
def weights(
    draw: DrawFn, *, layouts: tuple[tuple[bool, int], ...] = ((False, 1), (True, 1), (True, 2))
) -> Weight:
    """Weights with ties, all-zero rows and rows too small for a scale."""
    transposed, groups = draw(st.sampled_from(layouts))
    rows, *rest = draw(shapes(min_dims=2, max_dims=4, max_side=3))
    shape = (rows * groups, *rest)
    chosen, raw = np.split(draw(integers(shape=(shape[0] + 1 + math.prod(shape),))), [shape[0]])
    values = _numbers(raw, 127).reshape(shape)
    if draw(st.booleans()):
        values[:, 0] = 127.0  # makes the scale of 8 bits 1 and every half a tie
    factors = torch.from_numpy(ROW_SIZES[chosen % len(ROW_SIZES)]).reshape(-1, *(1 for _ in rest))
    return Weight(values * factors, transposed, groups)
