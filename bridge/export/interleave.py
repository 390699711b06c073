"""Putting the phases of a transposed convolution in order (bridge.export.sub_pixel).

Output (n, channel, s1 * m1 + r1, s2 * m2 + r2) is where the convolution has its phase (r1, r2) at
(m1, m2). One Transpose of rank 6 says so, but takes longer than the convolution; these ways move
blocks. Optimizers that join two Transposes undo that, so the Reshapes between are ones that no
Transpose can pass.
"""

from math import prod

import numpy as np
import onnx_ir as ir

from bridge.export.scribe import Scribe
from bridge.export.sub_pixel import Phases

_TO_THE_END = np.iinfo(np.int64).max


def write_interleaved(scribe: Scribe, y: ir.Value, phases: Phases | None) -> ir.Value:
    """Write the output of a transposed convolution from that of its ordinary one.

    Args:
        scribe: writes the nodes.
        y: any numbers, with phases among its channels; one or two spatial axes.
        phases: which, or None for a convolution that has none.
    Returns:
        the numbers in order, without what is to cut off.
    """
    if phases is None:
        return y
    if any(stride > 1 for stride in phases.strides):
        write = _blocks_of_channels if phases.first else _one_axis_at_a_time
        y = write(scribe, y, phases)
    if not any((*phases.starts, *phases.ends)):
        return y
    ends = [-end or _TO_THE_END for end in phases.ends]
    axes = range(2, 2 + len(ends))
    limits = (np.array(numbers, np.int64) for numbers in (phases.starts, ends, axes))
    return scribe.op("Slice", y, *limits)


def _one_axis_at_a_time(scribe: Scribe, y: ir.Value, phases: Phases) -> ir.Value:
    """(n, c r1 r2, m1, m2) -> (n, c r1, m1 m2, r2) -> (n, c, m1, r1, m2 r2) -> (n, c, ...)."""
    channels, strides = phases.channels, phases.strides
    width = size_of(scribe, y, -1, times=strides[-1])
    if strides[-1] > 1:
        y = reshape(scribe, y, 0, channels * prod(strides[:-1]), strides[-1], -1)
        y = scribe.op("Transpose", y, perm=[0, 1, 3, 2])
    if len(strides) == 1:
        return reshape(scribe, y, 0, channels, -1)
    if strides[0] > 1:
        y = reshape(scribe, y, 0, channels, strides[0], -1, width)
        y = scribe.op("Transpose", y, perm=[0, 1, 3, 2, 4])
    return reshape(scribe, y, 0, channels, -1, width)


def _blocks_of_channels(scribe: Scribe, y: ir.Value, phases: Phases) -> ir.Value:
    """(n, r1 r2 c, m1, m2) -> (n m1, m2, r1, r2 c) -> (n m1, r1, m2, r2 c) -> (n, c, ...)."""
    channels, strides = phases.channels, phases.strides
    if len(strides) == 1:
        y = reshape(scribe, scribe.op("Transpose", y, perm=[0, 2, 1]), 0, -1, channels)
        return scribe.op("Transpose", y, perm=[0, 2, 1])
    batch, middle = size_of(scribe, y, 0), size_of(scribe, y, -1)
    width = size_of(scribe, y, -1, times=strides[-1])
    y = scribe.op("Transpose", y, perm=[0, 2, 3, 1])
    if strides[0] > 1:
        y = reshape(scribe, y, -1, middle, strides[0], strides[1] * channels)
        y = scribe.op("Transpose", y, perm=[0, 2, 1, 3])
    y = reshape(scribe, y, batch, -1, width, channels)
    return scribe.op("Transpose", y, perm=[0, 3, 1, 2])


def size_of(scribe: Scribe, y: ir.Value, axis: int, *, times: int = 1) -> ir.Value:
    """Write a size of a value, which may depend on the model's input.

    Args:
        scribe: writes the nodes.
        y: the value.
        axis: which size.
        times: what to multiply it by.
    Returns:
        int64 (1,).
    """
    size = scribe.op("Gather", scribe.op("Shape", y), np.array([axis], np.int64))
    return scribe.op("Mul", size, np.int64(times)) if times > 1 else size


def reshape(scribe: Scribe, y: ir.Value, *sizes: int | ir.Value) -> ir.Value:
    """Write a Reshape.

    Args:
        scribe: writes the nodes.
        y: the value.
        sizes: numbers, with the operator's 0 and -1, or int64 (1,).
    Returns:
        the value in its new shape.
    """
    if all(isinstance(size, int) for size in sizes):
        return scribe.op("Reshape", y, np.array(sizes, np.int64))
    parts = [s if isinstance(s, ir.Value) else np.array([s], np.int64) for s in sizes]
    return scribe.op("Reshape", y, scribe.op("Concat", *parts, axis=0))
