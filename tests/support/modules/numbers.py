"""Numbers that are hard to round, for the weight, the scales, the clips, the bias and the input."""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bridge.modules.weighted import QATLayer

Array = np.ndarray
Random = np.random.Generator

WEIGHTS = ("normal", "zero", "tiny", "least", "huge", "positive", "negative", "halves")
BIASES = ("normal", "zero", "tiny", "halves", "large", "limit")
CLIPS = ("given", "crossed", "negative", "positive", "equal")


@dataclass(frozen=True, slots=True)
class Filling:
    """What the numbers of a layer are like: a word for each channel, over and over, see `fill`."""

    weights: list[str]
    biases: list[str]
    clip: str


@torch.no_grad()
def fill(layer: Any, filling: Filling, random: Random) -> None:
    """Give a layer its weight, scales, clips and bias."""
    rows = rows_of(layer)
    row_shape = rows.shape[1:]
    words = islice(cycle(filling.weights), len(rows))
    made = np.stack([_weight_row(word, row_shape, random) for word in words])
    layer.weight.copy_(torch.from_numpy(from_rows(layer, made.astype(np.float32))))
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


def from_rows(layer: Any, rows: Array) -> Array:
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


INPUTS = ("inside", "halves", "grid", "ends", "outside", "extreme")


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
