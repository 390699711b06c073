"""Layers to try: every geometry that the operators have, with numbers that are hard to round.

Structure is drawn, so it shrinks; the many numbers of a tensor come from a drawn seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT
from bridge.modules.base import QATLayer

Array = np.ndarray
Random = np.random.Generator
Draw = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A calibrated layer in eval mode and an input for it.

    Args:
        layer: the module.
        x: its input.
        output_padding: of a transposed convolution, what output_size asks for included.
        output_size: second argument of a transposed convolution, or None.
        other_form: the file has the other one of two forms, where exporters differ.
    """

    layer: QATLayer
    x: Tensor
    output_padding: tuple[int, ...] = ()
    output_size: list[int] | None = None
    other_form: bool = False

    @torch.no_grad()
    def run(self) -> Array:
        """Return what training computes, in eval mode."""
        more = () if self.output_size is None else (self.output_size,)
        return self.layer(self.x, *more).numpy()


@st.composite
def conv2d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any Conv2dQAT with up to 3 x 3 channels a group and 4 x 4 kernels."""
    return _conv_case(draw, Conv2dQAT, spatial=2, largest=4, bits=bits)


@st.composite
def conv3d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any Conv3dQAT with up to 3 x 3 channels a group and 3 x 3 x 3 kernels."""
    return _conv_case(draw, Conv3dQAT, spatial=3, largest=3, bits=bits)


@st.composite
def conv_transpose2d_cases(draw: Draw, *, bits: int = 8) -> Case:
    """Any ConvTranspose2dQAT whose output_padding ONNX Runtime takes: less than the stride."""
    groups, channels_in, channels_out = draw(_channels())
    kernel, stride = draw(_sizes(2, 1, 4)), draw(_sizes(2, 1, 3))
    dilation, padding = draw(_sizes(2, 1, 2)), draw(_sizes(2, 0, 2))
    size, smallest = [], []
    for k, s, d, p in zip(kernel, stride, dilation, padding, strict=True):
        reach = d * (k - 1) + 1
        # (n - 1) * s + reach - 2 * p >= 1
        needed = max(1, -((reach - 2 * p - 1) // s) + 1)
        size.append(needed + draw(st.integers(0, 3)))
        smallest.append((size[-1] - 1) * s + reach - 2 * p)
    output_padding = tuple(draw(st.integers(0, s - 1)) for s in stride)
    output_size = None
    if draw(st.booleans()):
        output_size = [n + p for n, p in zip(smallest, output_padding, strict=True)]
    given = (0, 0) if output_size else output_padding
    layer = ConvTranspose2dQAT(
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


_WEIGHTS = ("normal", "zero", "tiny", "least", "huge", "positive", "negative", "halves")
_BIASES = ("normal", "zero", "tiny", "halves", "large", "limit")
_CLIPS = ("given", "crossed", "negative", "positive", "equal")


@dataclass(frozen=True, slots=True)
class Filling:
    """What the numbers of a layer are like: a word for each channel, over and over, see `fill`."""

    weights: list[str]
    biases: list[str]
    clip: str


def fillings() -> st.SearchStrategy[Filling]:
    """Draw the kinds of numbers of a layer."""

    def words(known: Sequence[str]) -> st.SearchStrategy[list[str]]:
        return st.lists(st.sampled_from(known), min_size=1, max_size=5)

    return st.builds(Filling, words(_WEIGHTS), words(_BIASES), st.sampled_from(_CLIPS))


@torch.no_grad()
def fill(layer: Any, filling: Filling, random: Random) -> None:
    """Give a layer its weight, scales, clips and bias."""
    rows = rows_of(layer)
    row_shape = rows.shape[1:]
    words = islice(cycle(filling.weights), len(rows))
    made = np.stack([_weight_row(word, row_shape, random) for word in words])
    layer.weight.copy_(torch.from_numpy(_from_rows(layer, made.astype(np.float32))))
    if layer.config.learned_scale:
        scale = layer._arq_scale() * torch.from_numpy(
            random.uniform(0.3, 1.5, layer.wts_scales.numel()).astype(np.float32)
        )
        layer.wts_scales.copy_(1.0 / scale if layer.config.reciprocal_scale else scale)
        # Learned scales count from the first batch on.
        layer.load_state_dict(layer.state_dict() | {"cur_batch": torch.tensor(1)})
    high, low = {
        "given": layer.config.clip,
        "crossed": (-0.5, 0.5),
        "negative": (-0.25, -0.5),
        "positive": (2.0, 1.0),
        "equal": (1.0, 1.0),
    }[filling.clip]
    layer.acts_clip_max.fill_(high)
    layer.acts_clip_min.fill_(low)
    if layer.bias is not None:
        words = islice(cycle(filling.biases), len(rows))
        steps = np.float32([_bias_in_steps(word, random) for word in words])
        layer.bias.copy_(torch.from_numpy(steps * rescale(layer)))


def rescale(layer: QATLayer) -> Array:
    """Return scale_x * scale_w: the value of one step of the accumulator, (out,) or (1,)."""
    constants = layer._export_constants()
    return np.float32(constants.scale_x) * np.float32(constants.scale_w)


def rows_of(layer: Any) -> Array:
    """Return the weight with one output channel a row."""
    weight = layer.weight.detach().numpy()
    if not layer.operator.transposed:
        return weight
    split = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return np.swapaxes(split, 1, 2).reshape(-1, split.shape[1], *weight.shape[2:])


def _from_rows(layer: Any, rows: Array) -> Array:
    if not layer.operator.transposed:
        return rows
    split = rows.reshape(layer.groups, -1, *rows.shape[1:])
    return np.ascontiguousarray(np.swapaxes(split, 1, 2)).reshape(tuple(layer.weight.shape))


def _weight_row(word: str, shape: tuple[int, ...], random: Random) -> Array:
    normal = random.normal(size=shape)
    if word == "halves":
        # The extreme weight makes the scale 1/64; the others then lie on k + 1/2.
        row = (random.integers(-127, 127, shape) + 0.5) / 64
        row.flat[random.integers(row.size)] = 127 / 64
        return row
    return {
        "normal": normal,
        "zero": np.zeros(shape),
        "tiny": normal * 1e-30,
        "least": normal * (127 * 2.0**-23),
        "huge": normal * 1e18,
        "positive": np.abs(normal),
        "negative": -np.abs(normal),
    }[word]


def _bias_in_steps(word: str, random: Random) -> float:
    """Return a bias in steps of the accumulator; int32 has to hold it and the sums."""
    sign = random.choice([-1.0, 1.0])
    return (
        sign
        * {
            "normal": random.normal() * 1000,
            "zero": 0.0,
            "tiny": random.uniform() * 1e-6,
            "halves": random.integers(0, 1000) + 0.5,
            "large": random.uniform(2.0**23, 2.0**25),
            "limit": random.uniform(2.0**30, 2.0**31 - 2.0**24),
        }[word]
    )


_INPUTS = ("inside", "halves", "grid", "ends", "outside", "extreme")


def mixtures() -> st.SearchStrategy[list[str]]:
    """Draw the kinds of numbers an input is mixed from, see `inputs`."""
    return st.lists(st.sampled_from(_INPUTS), min_size=1, max_size=4, unique=True)


def inputs(layer: QATLayer, shape: tuple[int, ...], words: list[str], random: Random) -> Tensor:
    """Mix an input: values inside the clips, exact ties, grid points, the ends, and beyond."""
    constants = layer._export_constants()
    scale, zero_point = np.float32(constants.scale_x), constants.zero_point_x
    half = 1 << (constants.bits_x - 1)
    low, high = -half - zero_point, half - 1 - zero_point
    ends = np.float32([low, high, low - 0.5, high + 0.5]) * scale
    ends = np.concatenate([ends, np.nextafter(ends, np.float32(np.inf))])
    kinds = {
        "inside": random.uniform(low, high, shape) * scale,
        "halves": (random.integers(low - 2, high + 2, shape) + np.float32(0.5)) * scale,
        "grid": random.integers(low, high + 1, shape) * scale,
        "ends": random.choice(ends, shape),
        "outside": random.normal(size=shape) * (high - low) * 2 * scale,
        "extreme": random.choice(np.float32([0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38]), shape),
    }
    choice = random.integers(len(words), size=shape)
    mixed = np.choose(choice, [kinds[word].astype(np.float32) for word in words])
    return torch.from_numpy(mixed)
