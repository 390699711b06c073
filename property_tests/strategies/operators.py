"""Layers and products, as the functions of qatfunc.operators are called."""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from property_tests.strategies.activations import clips
from property_tests.strategies.grids import activation_specs, layer_specs
from property_tests.strategies.tensors import Shape, dense_tensors, integers, shapes
from qatfunc import Clip
from tests.support.functions.operands import Product, QuantizedLayer

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
