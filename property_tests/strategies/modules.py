"""QAT layers to try: every geometry that the operators have, with numbers that are hard to round.

Structure is drawn, so it shrinks; the many numbers of a tensor come from a drawn seed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bridge import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
)
from tests.support.modules.case import Case
from tests.support.modules.numbers import (
    BIASES,
    CLIPS,
    INPUTS,
    WEIGHTS,
    Filling,
    Random,
    fill,
    inputs,
)

Array = np.ndarray
Draw = Any


@st.composite
def conv1d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any Conv1dQAT with up to 3 x 3 channels a group and kernels of 5."""
    return _conv_case(draw, Conv1dQAT, spatial=1, largest=5, bits=bits)


@st.composite
def conv2d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any Conv2dQAT with up to 3 x 3 channels a group and 4 x 4 kernels."""
    return _conv_case(draw, Conv2dQAT, spatial=2, largest=4, bits=bits)


@st.composite
def conv3d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any Conv3dQAT with up to 3 x 3 channels a group and 3 x 3 x 3 kernels."""
    return _conv_case(draw, Conv3dQAT, spatial=3, largest=3, bits=bits)


@st.composite
def conv_transpose1d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any ConvTranspose1dQAT with up to 3 x 3 channels a group and kernels of 4."""
    return _conv_transpose_case(draw, ConvTranspose1dQAT, spatial=1, bits=bits)


@st.composite
def conv_transpose2d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any ConvTranspose2dQAT with up to 3 x 3 channels a group and 4 x 4 kernels."""
    return _conv_transpose_case(draw, ConvTranspose2dQAT, spatial=2, bits=bits)


@st.composite
def linear_cases(draw: Draw, *, bits: int = 8, features: int = 200) -> Case:
    """Any LinearQAT with up to `features` inputs, on inputs of rank 2 to 4."""
    config = draw(configs(bits=bits, channel_wise=False))
    size_in, size_out = draw(st.integers(1, features)), draw(st.integers(1, 40))
    layer = LinearQAT(size_in, size_out, bias=draw(st.booleans()), config=config)
    random = draw(randoms())
    fill(layer, draw(fillings()), random)
    shape = (*draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)), size_in)
    x = inputs(layer, shape, draw(mixtures()), random)
    return Case(layer=layer.eval(), x=x, other_form=draw(st.booleans()))


def _conv_case(draw: Draw, kind: type, *, spatial: int, largest: int, bits: int) -> Case:
    groups, channels_in, channels_out = draw(_channels())
    kernel, dilation = draw(_sizes(spatial, 1, largest)), draw(_sizes(spatial, 1, 2))
    if spatial == 3:
        dilation = (1, *dilation[1:])
    padding = draw(st.just("same") | st.just("valid") | _sizes(spatial, 0, 2))
    stride = (1,) * spatial if padding == "same" else draw(_sizes(spatial, 1, 3))
    size = []
    for i, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
        around = d * (k - 1) if padding == "same" else 0 if padding == "valid" else 2 * padding[i]
        size.append(max(1, d * (k - 1) + 1 - around) + draw(st.integers(0, 3)))
    layer = kind(
        channels_in,
        channels_out,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        config=draw(configs(bits=bits)),
    )
    random = draw(randoms())
    fill(layer, draw(fillings()), random)
    x = inputs(layer, (draw(st.integers(1, 2)), channels_in, *size), draw(mixtures()), random)
    return Case(layer=layer.eval(), x=x)


def _conv_transpose_case(draw: Draw, kind: type, *, spatial: int, bits: int) -> Case:
    groups, channels_in, channels_out = draw(_channels())
    kernel, stride = draw(_sizes(spatial, 1, 4)), draw(_sizes(spatial, 1, 3))
    dilation, padding = draw(_sizes(spatial, 1, 2)), draw(_sizes(spatial, 0, 2))
    size, smallest = [], []
    for k, s, d, p in zip(kernel, stride, dilation, padding, strict=True):
        reach = d * (k - 1) + 1
        # (n - 1) * s + reach - 2 * p >= 1
        needed = max(1, -((reach - 2 * p - 1) // s) + 1)
        size.append(needed + draw(st.integers(0, 3)))
        smallest.append((size[-1] - 1) * s + reach - 2 * p)
    limits = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
    output_padding = tuple(draw(st.integers(0, limit - 1)) for limit in limits)
    output_size = None
    if draw(st.booleans()) and all(p < s for p, s in zip(output_padding, stride, strict=True)):
        output_size = [n + p for n, p in zip(smallest, output_padding, strict=True)]
    given = (0,) * spatial if output_size else output_padding
    layer = kind(
        channels_in,
        channels_out,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        output_padding=given,
        config=draw(configs(bits=bits)),
    )
    random = draw(randoms())
    fill(layer, draw(fillings()), random)
    x = inputs(layer, (draw(st.integers(1, 2)), channels_in, *size), draw(mixtures()), random)
    return Case(
        layer=layer.eval(),
        x=x,
        output_padding=output_padding,
        output_size=output_size,
        other_form=draw(st.booleans()),
    )


@st.composite
def _channels(draw: Draw) -> tuple[int, int, int]:
    """Draw (groups, channels in, channels out): one group, several, depthwise, or wide.

    From 16 channels on ONNX Runtime takes kernels of its own on blocks of channels.
    """
    groups = draw(st.integers(1, 4))
    if draw(st.integers(0, 7)) == 0:
        return draw(st.sampled_from([(1, 16, 16), (1, 3, 32), (16, 16, 16), (2, 32, 32)]))
    return groups, groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))


def _sizes(count: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * count)


def randoms() -> st.SearchStrategy[Random]:
    """Draw a generator of numbers."""
    return st.builds(np.random.default_rng, st.integers(0, 2**32 - 1))


@st.composite
def configs(
    draw: Draw, *, bits: int = 8, channel_wise: bool | None = None, reach: int = 30
) -> dict[str, Any]:
    """Draw a configuration whose clips are given, so that the layer is calibrated at once.

    clip_max is anything from 2^-reach, where the scale falls below the smallest one, to 2^reach.
    """
    high = 2.0 ** draw(st.integers(-reach, reach)) * draw(st.floats(1.0, 2.0, width=32))
    low = -high * draw(st.sampled_from([0.0, 2.0**-12, 0.3, 1.0, 3.7, 2.0**12]))
    data = {
        "dst_type": f"INT{bits}",
        "asymmetric": draw(st.booleans()),
        "fixed_min": draw(st.booleans()),
        "clip_max": high,
        "clip_min": low,
    }
    weight = {
        "channel_wise": draw(st.booleans()) if channel_wise is None else channel_wise,
        "weights_retrain_algo": draw(st.sampled_from(["arq_retrain", "ulq_retrain"])),
        "s_rec_flag": draw(st.booleans()),
    }
    return {"retrain_data_config": data, "retrain_weight_config": weight}


def fillings() -> st.SearchStrategy[Filling]:
    """Draw the kinds of numbers of a layer."""

    def words(known: Sequence[str]) -> st.SearchStrategy[list[str]]:
        return st.lists(st.sampled_from(known), min_size=1, max_size=5)

    return st.builds(Filling, words(WEIGHTS), words(BIASES), st.sampled_from(CLIPS))


def mixtures() -> st.SearchStrategy[list[str]]:
    """Draw the kinds of numbers an input is mixed from, see `inputs`."""
    return st.lists(st.sampled_from(INPUTS), min_size=1, max_size=4, unique=True)
