"""All strategies: bounded, finite, keyword-only, shrinking to small shapes and to zero.

Hypothesis pays for every choice, so shapes and grids are one choice from a list and the numbers of
a tensor one choice of bytes: a hundred times cheaper than one for each element.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray
from torch import Tensor

from qatfunc import ActivationSpec, Clip, IntSpec, LayerSpec, QParams, SearchSpec, WeightSpec

EPS = 2.0**-23
Shape = tuple[int, ...]


def share_of_examples(share: float) -> settings:
    """For the few expensive tests: this share of the profile's examples."""
    return settings(max_examples=max(1, round(settings().max_examples * share)))


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


# Calibration


@cache
def search_specs(*, step: float = 0.05) -> SearchStrategy[SearchSpec]:
    """Searches over 12 or 20 candidates; a step of 0.01 makes 61 of them."""
    percentiles = st.sampled_from([0.999999, 1.0, 0.9, 0.75])
    return st.builds(
        SearchSpec,
        max_percentile=percentiles,
        min_percentile=percentiles,
        start=st.sampled_from([0.7, 0.3]),
        step=st.just(step),
        symmetric=st.booleans(),
    )


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


# Operators


class QuantizedLayer(NamedTuple):
    x: Tensor
    params: dict[str, Any]
    spec: LayerSpec
    options: dict[str, Any]


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


WEIGHT_STEPS = np.array([2.0**-7, 0.01, 0.3], np.float32)


OPTIONAL = st.sampled_from(list(product([True, False], ["", "one", "each"])))


def _params(draw: DrawFn, *, shape: Shape, channels: int) -> dict[str, Any]:
    params: dict[str, Any] = {"weight": draw(dense_tensors(shape=shape)) * 2.0**-7}
    bias, trained_scale = draw(OPTIONAL)
    if bias:
        params["bias"] = draw(dense_tensors(shape=(channels,))) * 2.0**-7
    if trained_scale:
        count = 1 if trained_scale == "one" else channels
        chosen = draw(integers(shape=(count,)))
        params["weight_scale"] = torch.from_numpy(WEIGHT_STEPS[chosen % len(WEIGHT_STEPS)])
    params["clip"] = draw(clips(extreme=False))
    return params


def _step(clip: Clip) -> float:
    return float(clip.max - clip.min) / 255


@st.composite
def linear_layers(draw: DrawFn) -> QuantizedLayer:
    out, inputs = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    leading = draw(shapes(min_dims=1, max_dims=3, max_side=3))
    params = _params(draw, shape=(out, inputs), channels=out)
    x = draw(dense_tensors(shape=(*leading, inputs))) * _step(params["clip"])
    return QuantizedLayer(x, params, draw(layer_specs()), {})


@cache
def _per_axis(*, low: int, high: int, axes: int) -> SearchStrategy[Any]:
    """One int for all axes, or one for each."""
    each = product(range(low, high + 1), repeat=axes)
    return st.sampled_from([*range(low, high + 1), *each])


def _each(value: Any, axes: int) -> Sequence[int]:
    return [value] * axes if isinstance(value, int) else value


def _reach(kernel: Shape, dilation: Any) -> list[int]:
    gaps = _each(dilation, len(kernel))
    return [gap * (size - 1) for gap, size in zip(gaps, kernel, strict=True)]


# batch, groups, inputs a group, outputs a group
_channels = shapes(min_dims=4, max_dims=4, max_side=2).map(lambda s: (*s[:1], 2 * s[1] - 1, *s[2:]))


@st.composite
def conv_layers(draw: DrawFn, *, axes: int) -> QuantizedLayer:
    """Convolutions over every option; padding "same" too, with even kernels."""
    batch, groups, ins, outs = draw(_channels)
    kernel = draw(shapes(min_dims=axes, max_dims=axes, max_side=3 if axes == 3 else 4))
    dilation = draw(_per_axis(low=1, high=2, axes=axes))
    padding = draw(st.sampled_from(["same", "valid"]) | _per_axis(low=0, high=2, axes=axes))
    stride = 1 if padding == "same" else draw(_per_axis(low=1, high=3, axes=axes))
    more = draw(shapes(min_dims=axes, max_dims=axes, max_side=4))
    sizes = [a + b for a, b in zip(_reach(kernel, dilation), more, strict=True)]
    params = _params(draw, shape=(groups * outs, ins, *kernel), channels=groups * outs)
    x = draw(dense_tensors(shape=(batch, groups * ins, *sizes))) * _step(params["clip"])
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return QuantizedLayer(x, params, draw(layer_specs()), options)


@st.composite
def conv_transpose_layers(draw: DrawFn, *, axes: int) -> QuantizedLayer:
    """Transposed convolutions; output_padding below stride or dilation, as torch wants it."""
    batch, groups, ins, outs = draw(_channels)
    kernel = draw(shapes(min_dims=axes, max_dims=axes, max_side=4))
    stride = draw(_per_axis(low=1, high=3, axes=axes))
    dilation = draw(_per_axis(low=1, high=2, axes=axes))
    widest = [
        max(pair) - 1 for pair in zip(_each(stride, axes), _each(dilation, axes), strict=True)
    ]
    output_padding = tuple(draw(st.integers(0, most)) for most in widest)
    halves = [min(2, reach // 2) for reach in _reach(kernel, dilation)]
    padding = tuple(draw(st.integers(0, most)) for most in halves)
    sizes = draw(shapes(min_dims=axes, max_dims=axes, max_side=4))
    params = _params(draw, shape=(groups * ins, outs, *kernel), channels=groups * outs)
    x = draw(dense_tensors(shape=(batch, groups * ins, *sizes))) * _step(params["clip"])
    options = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "groups": groups,
        "dilation": dilation,
    }
    return QuantizedLayer(x, params, draw(layer_specs()), options)


LAYERS: dict[str, SearchStrategy[QuantizedLayer]] = {
    "linear": linear_layers(),
    "conv1d": conv_layers(axes=1),
    "conv2d": conv_layers(axes=2),
    "conv3d": conv_layers(axes=3),
    "conv_transpose1d": conv_transpose_layers(axes=1),
    "conv_transpose2d": conv_transpose_layers(axes=2),
}
"""Every weighted operator by its name in qatfunc.operators."""

NamedLayer = tuple[str, QuantizedLayer]

NAMED_LAYERS: SearchStrategy[NamedLayer] = st.sampled_from(list(LAYERS)).flatmap(
    lambda name: st.tuples(st.just(name), LAYERS[name])
)


class Product(NamedTuple):
    a: Tensor
    b: Tensor
    params: dict[str, Clip]
    spec: ActivationSpec


@st.composite
def products(draw: DrawFn) -> Product:
    """Two activations to multiply, perhaps a batch of either."""
    rows, inner, columns = draw(shapes(min_dims=3, max_dims=3, max_side=3))
    batch, shared = draw(st.sampled_from([((), ()), ((2,), (2,)), ((2,), ()), ((2, 1), (3,))]))
    clip_a, clip_b = draw(clips(extreme=False)), draw(clips(extreme=False))
    params = {"input_clip": clip_a, "other_clip": clip_b}
    a = draw(dense_tensors(shape=(*batch, rows, 7 * inner))) * _step(clip_a)
    b = draw(dense_tensors(shape=(*shared, 7 * inner, columns))) * _step(clip_b)
    return Product(a, b, params, draw(activation_specs(bits=(8, 16))))
