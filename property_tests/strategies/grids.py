"""Specs, and tensors around the steps of their grids."""

import math
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from torch import Tensor

from property_tests.strategies.tensors import _fold, _numbers, integers, shapes
from qatfunc import ActivationSpec, IntSpec, LayerSpec, QParams, WeightSpec

# Grids

INT_SPECS = st.sampled_from([IntSpec(bits=bits) for bits in (8, 2, 4, 16)])


@cache
def weight_specs(*, per_channel: tuple[bool, ...] = (True, False)) -> SearchStrategy[WeightSpec]:
    cases = product((8, 4, 2), per_channel)
    return st.sampled_from([WeightSpec(bits=bits, per_channel=each) for bits, each in cases])


@cache
def activation_specs(*, bits: tuple[int, ...] = (8, 16, 2)) -> SearchStrategy[ActivationSpec]:
    cases = product(bits, (False, True), (False, True))
    return st.sampled_from(
        [ActivationSpec(bits=n, symmetric=s, fixed_min=fixed) for n, s, fixed in cases]
    )


@cache
def layer_specs() -> SearchStrategy[LayerSpec]:
    weight = [
        WeightSpec(bits=bits, per_channel=each) for bits, each in product((8, 4), (True, False))
    ]
    activation = [
        ActivationSpec(bits=bits, symmetric=symmetric, fixed_min=fixed)
        for bits, symmetric, fixed in product((8, 16), (False, True), (False, True))
    ]
    return st.sampled_from(
        [LayerSpec(weight=w, activation=a) for w, a in product(weight, activation)]
    )


def _scales(n: NDArray[np.int64]) -> NDArray[np.float32]:
    """From 2^-20 to 2^11, half of them powers of two so that ties are ties."""
    fraction = np.where(n & 32, np.abs(n) / 2.0**31, 0.0)
    return np.float32((1.0 + fraction) * 2.0 ** (n % 31 - 20))


class Affine(NamedTuple):
    x: Tensor
    qparams: QParams
    spec: IntSpec


@st.composite
def affines(draw: DrawFn) -> Affine:
    """A tensor, and one step and zero point for all of it or for each row."""
    spec, shape = draw(INT_SPECS), draw(shapes(min_dims=2, max_dims=3, max_side=3))
    rows = shape[0] if draw(st.booleans()) else 1
    full = (rows,) + (1,) * (len(shape) - 1)
    scales, points, values = np.split(
        draw(integers(shape=(2 * rows + 1 + math.prod(shape),))), [rows, 2 * rows]
    )
    scale = torch.from_numpy(_scales(scales)).reshape(full)
    zero_point = torch.from_numpy(_fold(points, spec.qmin, spec.qmax)).float().reshape(full)
    x = _numbers(values, 2 * spec.steps).reshape(shape) * scale
    return Affine(x, QParams(scale, zero_point), spec)
