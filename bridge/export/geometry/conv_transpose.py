"""A transposed convolution as an ordinary one, for which there are integer operators.

    ConvTranspose <strides = s>  =  Conv <strides = 1>, s times the channels per axis -> interleave

Output positions with the same remainder r modulo the stride s, a phase, are sums over the same
weights: with kernel index k, dilation d and leading padding p,

    y[s * m + r - start] = sum over k and c of x[m + c] w[k],   s * c = r - start + p - k * d

So each phase is a convolution of stride 1, and all phases together are one convolution, whose
output channels lower.depth_to_space interleaves (Shi et al. 2016). With stride 1 there is a single
phase, with the kernel flipped. The first `start` positions are cut off again; start is chosen so
that the kernel has the fewest taps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer

_MOST_AXES = 2
_MOST_ZEROS = 16
"""Largest ratio of the convolution's weights to the layer's; all additional ones are zeros."""
_MOST_TAPS = 1 << 18
"""Largest number of taps over all phases of an axis: the search for `start` takes as many steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """How to interleave the convolution's output channels, and what to crop then.

    Args:
        channels: output channels of the transposed convolution.
        strides: one per axis.
        starts: positions to cut off at the start of each axis.
        ends: positions to cut off at its end.
        phases_first: whether the output channels are (phases, channels) and not (channels, phases).
    """

    channels: int
    strides: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    phases_first: bool

    def spread(self, values: Array) -> Array:
        """Repeat a value per channel for all phases.

        Args:
            values: (channels,).
        Returns:
            (channels * phases,), in the order of the convolution's output channels.
        """
        count = prod(self.strides)
        return np.tile(values, count) if self.phases_first else np.repeat(values, count)


class Convolution(NamedTuple):
    """An ordinary convolution that computes a layer.

    Args:
        weight: (out, in/groups, ...).
        attributes: of the Conv.
        phases: of a transposed convolution, None for an ordinary one.
    """

    weight: Array
    attributes: dict[str, Any]
    phases: Phases | None


class ConvAxis(NamedTuple):
    """Geometry of one spatial axis of a layer.

    Args:
        size: of the kernel.
        stride: of the axis.
        dilation: of the axis.
        begin: padding before.
        end: padding after.
        output_padding: at the end.
    """

    size: int
    stride: int
    dilation: int
    begin: int
    end: int
    output_padding: int


_ATTRIBUTES = (("strides", 1, 1), ("dilations", 1, 1), ("pads", 0, 2), ("output_padding", 0, 1))
"""(name, smallest value, values per axis), in the order of ConvAxis."""


class _Axis(NamedTuple):
    """One axis of the convolution; taps[k] is (phase, kernel position) of the layer's weight k."""

    start: int
    end: int
    pads: tuple[int, int]
    dilation: int
    size: int
    taps: tuple[tuple[int, int], ...]


def can_be_convolution(layer: QuantizedLayer) -> bool:
    """Whether a layer is a transposed convolution that has an equivalent ordinary one.

    Args:
        layer: any layer.
    Returns:
        False also for three spatial axes, for padding that depends on the input's size, for
        invalid attributes, and if too many weights would be zeros.
    """
    if layer.op != "ConvTranspose" or layer.weight.ndim - 2 > _MOST_AXES:
        return False
    given = conv_axes(layer) if layer.fixed_padding else None
    if given is None:
        return False
    kernel = layer.weight.shape[2:]
    sizes = [g.size if g.stride == 1 else g.stride + g.dilation * (g.size - 1) for g in given]
    taps = [g.size * g.stride for g in given]
    if max(taps, default=0) > _MOST_TAPS or prod(kernel) > _MOST_TAPS:
        return False
    right = tuple(layer.attributes.get("kernel_shape") or kernel) == kernel
    return right and prod(sizes) <= _MOST_ZEROS * prod(kernel)


def as_convolution(layer: QuantizedLayer, *, phases_first: bool = False) -> Convolution:
    """Return the ordinary convolution that computes a layer.

    Args:
        layer: a convolution, or a transposed one that can_be_convolution.
        phases_first: order the output channels as (phases, channels); only for one group.
    Returns:
        the convolution; for a layer that is one already, its own weight and attributes.
    Raises:
        ValueError: the layer is a transposed convolution with invalid attributes.
    """
    if layer.op != "ConvTranspose":
        return Convolution(layer.weight, layer.attributes, None)
    given = conv_axes(layer)
    if given is None:
        raise ValueError(f"layer {layer.name!r} has no equivalent convolution")
    strides, axes = tuple(one.stride for one in given), [_best(one) for one in given]
    groups, (inputs, channels) = layer.groups, layer.weight.shape[:2]
    rows = layer.weight.reshape(groups, inputs // groups, channels, *layer.weight.shape[2:])
    weight = np.zeros(
        (groups, channels, *strides, inputs // groups, *(axis.size for axis in axes)),
        layer.weight.dtype,
    )
    for kernel in product(*(range(len(axis.taps)) for axis in axes)):
        taps = [axis.taps[k] for axis, k in zip(axes, kernel, strict=True)]
        phase, position = zip(*taps, strict=True)
        at = (slice(None), slice(None), *phase, slice(None), *position)
        weight[at] = rows[(slice(None),) * 3 + kernel].swapaxes(1, 2)
    if phases_first:
        weight = np.moveaxis(weight, 1, 1 + len(axes))
    phases = Phases(
        channels=groups * channels,
        strides=strides,
        starts=tuple(axis.start for axis in axes),
        ends=tuple(axis.end for axis in axes),
        phases_first=phases_first,
    )
    attributes = {
        "kernel_shape": [axis.size for axis in axes],
        "dilations": [axis.dilation for axis in axes],
        "pads": [axis.pads[0] for axis in axes] + [axis.pads[1] for axis in axes],
        "group": groups,
    }
    outputs = phases.channels * prod(strides)
    return Convolution(weight.reshape(outputs, *weight.shape[-len(axes) - 1 :]), attributes, phases)


def conv_axes(layer: QuantizedLayer) -> list[ConvAxis] | None:
    """Read the geometry of each spatial axis from a layer's attributes.

    Args:
        layer: a convolution, transposed or not.
    Returns:
        one entry per axis; None if an attribute is invalid.
    """
    kernel = layer.weight.shape[2:]
    columns: list[Sequence[int]] = [kernel]
    for name, least, count in _ATTRIBUTES:
        numbers = layer.attributes.get(name) or (least,) * count * len(kernel)
        whole = isinstance(numbers, Sequence) and all(isinstance(n, int) for n in numbers)
        if not whole or len(numbers) != count * len(kernel) or min(numbers) < least:
            return None
        columns += [numbers[i : i + len(kernel)] for i in range(0, len(numbers), len(kernel))]
    return [ConvAxis(*row) for row in zip(*columns, strict=True)]


@lru_cache(maxsize=1024)
def _best(given: ConvAxis) -> _Axis:
    """Lay out an axis with the `start` that gives the fewest taps."""
    return min((_axis(given, start) for start in range(given.stride)), key=lambda a: a.size)


def _axis(given: ConvAxis, start: int) -> _Axis:
    size, stride, dilation, begin, end, output_padding = given
    # Output length minus stride * (input length - 1).
    extra = dilation * (size - 1) + 1 - begin - end + output_padding
    reach = [start - begin + k * dilation for k in range(size)]
    phases = [r % stride for r in reach]
    shifts = [(phase - r) // stride for phase, r in zip(phases, reach, strict=True)]
    step = dilation if stride == 1 else 1
    low, high = min(shifts), max(shifts)
    blocks = -(-(extra + start) // stride)
    before, after = -low, blocks - 1 + high
    return _Axis(
        # Padding cannot be negative: instead, more positions are cut off.
        start=start + stride * max(0, -before),
        end=stride * (blocks + max(0, -after)) - extra - start,
        pads=(max(0, before), max(0, after)),
        dilation=step,
        size=(high - low) // step + 1,
        taps=tuple((p, (c - low) // step) for p, c in zip(phases, shifts, strict=True)),
    )
