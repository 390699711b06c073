"""A transposed convolution as an ordinary one, for which there are integer operators.

Outputs whose places leave the same rest when divided by the stride s see the same weights: for
place s * m + r - start of the output, with a kernel index k, dilation d and padding p before,

    y[s * m + r - start] = sum over k and c of x[m + c] w[k],   s * c = r - start + p - k * d

Each rest r is a convolution of stride 1. All of them become the output channels of one (Shi et al.
2016), whose phases are then put in order (lower.depth_to_space). With stride 1 it is the
kernel turned around. start, which is cut off again, is chosen to leave the fewest taps.
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
"""How many times as many weights the convolution may have, the rest of them zeros."""
_MOST_TAPS = 1 << 18
"""How many taps the phases of an axis may have together: what is tried for them grows so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """The order of the convolution's output channels, and what its output is more.

    Args:
        channels: output channels of the transposed convolution.
        strides: one an axis.
        starts: places to cut off before, one an axis.
        ends: places to cut off behind.
        first: channels are (phases, channels), not (channels, phases).
    """

    channels: int
    strides: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    first: bool

    def spread(self, values: Array) -> Array:
        """Give every phase its channel's value.

        Args:
            values: (channels,).
        Returns:
            one value an output channel of the convolution.
        """
        count = prod(self.strides)
        return np.tile(values, count) if self.first else np.repeat(values, count)


class Convolution(NamedTuple):
    """An ordinary convolution.

    Args:
        weight: (out, in/groups, ...).
        attributes: the operator's.
        phases: what its output channels are; None if nothing but channels.
    """

    weight: Array
    attributes: dict[str, Any]
    phases: Phases | None


class ConvAxis(NamedTuple):
    """One axis of a convolution: kernel size, stride, dilation, pads, output_padding."""

    size: int
    stride: int
    dilation: int
    begin: int
    end: int
    more: int


_NUMBERS = (("strides", 1, 1), ("dilations", 1, 1), ("pads", 0, 2), ("output_padding", 0, 1))
"""Attributes, their least values, and how many an axis; in the order of ConvAxis."""


class _Axis(NamedTuple):
    """One axis of the convolution; taps[k] is the phase and the place of a weight."""

    start: int
    end: int
    pads: tuple[int, int]
    dilation: int
    size: int
    taps: tuple[tuple[int, int], ...]


def can_be_convolution(layer: QuantizedLayer) -> bool:
    """Whether a layer is a transposed convolution that can be an ordinary one.

    Args:
        layer: any layer.
    Returns:
        False too for three dimensions, for padding that depends on the input's size, for
        attributes that no operator takes, and where most weights would be zeros.
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
    """Restate a layer as an ordinary convolution.

    Args:
        layer: a convolution, or a transposed one that can_be_convolution.
        phases_first: which order of channels to choose; only for one group.
    Returns:
        the convolution.
    Raises:
        ValueError: the layer is a transposed convolution of another kind.
    """
    if layer.op != "ConvTranspose":
        return Convolution(layer.weight, layer.attributes, None)
    given = conv_axes(layer)
    if given is None:
        raise ValueError(f"layer {layer.name!r} has no phases")
    strides, axes = tuple(one.stride for one in given), [_best(one) for one in given]
    groups, (inputs, channels) = layer.groups, layer.weight.shape[:2]
    rows = layer.weight.reshape(groups, inputs // groups, channels, *layer.weight.shape[2:])
    weight = np.zeros(
        (groups, channels, *strides, inputs // groups, *(axis.size for axis in axes)),
        layer.weight.dtype,
    )
    for kernel in product(*(range(len(axis.taps)) for axis in axes)):
        taps = [axis.taps[k] for axis, k in zip(axes, kernel, strict=True)]
        phase, place = zip(*taps, strict=True)
        at = (slice(None), slice(None), *phase, slice(None), *place)
        weight[at] = rows[(slice(None),) * 3 + kernel].swapaxes(1, 2)
    if phases_first:
        weight = np.moveaxis(weight, 1, 1 + len(axes))
    phases = Phases(
        channels=groups * channels,
        strides=strides,
        starts=tuple(axis.start for axis in axes),
        ends=tuple(axis.end for axis in axes),
        first=phases_first,
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
    """Return what a layer's attributes say of each axis.

    Args:
        layer: a convolution, transposed or not.
    Returns:
        one entry an axis; None if no operator takes them.
    """
    kernel = layer.weight.shape[2:]
    columns: list[Sequence[int]] = [kernel]
    for name, least, count in _NUMBERS:
        numbers = layer.attributes.get(name) or (least,) * count * len(kernel)
        whole = isinstance(numbers, Sequence) and all(isinstance(n, int) for n in numbers)
        if not whole or len(numbers) != count * len(kernel) or min(numbers) < least:
            return None
        columns += [numbers[i : i + len(kernel)] for i in range(0, len(numbers), len(kernel))]
    return [ConvAxis(*row) for row in zip(*columns, strict=True)]


@lru_cache(maxsize=1024)
def _best(given: ConvAxis) -> _Axis:
    """Lay an axis out with the places more at the front that leave the fewest taps."""
    return min((_axis(given, start) for start in range(given.stride)), key=lambda a: a.size)


def _axis(given: ConvAxis, start: int) -> _Axis:
    size, stride, dilation, begin, end, more = given
    # What the output is longer than stride * (length of the input - 1).
    rest = dilation * (size - 1) + 1 - begin - end + more
    reach = [start - begin + k * dilation for k in range(size)]
    phases = [r % stride for r in reach]
    shifts = [(phase - r) // stride for phase, r in zip(phases, reach, strict=True)]
    step = dilation if stride == 1 else 1
    low, high = min(shifts), max(shifts)
    blocks = -(-(rest + start) // stride)
    before, behind = -low, blocks - 1 + high
    return _Axis(
        # No operator takes negative padding: what it would leave out is cut off.
        start=start + stride * max(0, -before),
        end=stride * (blocks + max(0, -behind)) - rest - start,
        pads=(max(0, before), max(0, behind)),
        dilation=step,
        size=(high - low) // step + 1,
        taps=tuple((p, (c - low) // step) for p, c in zip(phases, shifts, strict=True)),
    )
