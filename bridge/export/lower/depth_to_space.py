"""Depth-to-space: the output of a sub-pixel convolution as that of the ConvTranspose it replaces.

    ConvTranspose -> y (n, c, s1 * m1, s2 * m2)
        becomes
    Conv (n, c * s1 * s2, m1, m2) -> Reshape -> Transpose -> Reshape -> Transpose -> Reshape
        -> (Slice) -> y

Phase (r1, r2) of channel c at (m1, m2) is y[n, c, s1 * m1 + r1, s2 * m2 + r2]; the Slice cuts off
padding. ONNX's DepthToSpace has one block size for both axes. One Transpose of rank 6 would do,
but takes longer than the convolution itself; two Transposes that copy larger blocks are faster.
Optimizers would merge these two into the slow one again, so the Reshape between them is one that
no Transpose can be moved across.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv_transpose import Phases
from bridge.export.graph.builder import Builder

_TO_THE_END = np.iinfo(np.int64).max


def write_depth_to_space(builder: Builder, y: ir.Value, phases: Phases | None) -> ir.Value:
    """Write the output of a transposed convolution from that of its sub-pixel convolution.

    Args:
        builder: writes the nodes.
        y: (n, channels * phases, m1) or (n, channels * phases, m1, m2), any dtype.
        phases: order of the channels and what to cut off; None if y is the output already.
    Returns:
        (n, channels, ...), the output of the transposed convolution.
    """
    if phases is None:
        return y
    if any(stride > 1 for stride in phases.strides):
        write = _blocks_of_channels if phases.phases_first else _one_axis_at_a_time
        y = write(builder, y, phases)
    if not any((*phases.starts, *phases.ends)):
        return y
    ends = [-end or _TO_THE_END for end in phases.ends]
    axes = range(2, 2 + len(ends))
    limits = (np.array(bounds, np.int64) for bounds in (phases.starts, ends, axes))
    return builder.op("Slice", y, *limits)


def _one_axis_at_a_time(builder: Builder, y: ir.Value, phases: Phases) -> ir.Value:
    """(n, c r1 r2, m1, m2) -> (n, c r1, m1 m2, r2) -> (n, c, m1, r1, m2 r2) -> (n, c, ...)."""
    channels, strides = phases.channels, phases.strides
    middles, sizes = _sizes(builder, y, strides)
    if strides[-1] > 1:
        positions = middles[0] if len(strides) == 1 else builder.op("Mul", *middles)
        y = reshape(builder, y, -1, channels * prod(strides[:-1]), strides[-1], positions)
        y = builder.op("Transpose", y, perm=[0, 1, 3, 2])
    if strides[0] > 1 and len(strides) > 1:
        y = reshape(builder, y, -1, channels, strides[0], middles[0], sizes[1])
        y = builder.op("Transpose", y, perm=[0, 1, 3, 2, 4])
    return reshape(builder, y, -1, channels, *sizes)


def _blocks_of_channels(builder: Builder, y: ir.Value, phases: Phases) -> ir.Value:
    """(n, r1 r2 c, m1, m2) -> (n m1, m2, r1, r2 c) -> (n m1, r1, m2, r2 c) -> (n, c, ...)."""
    channels, strides = phases.channels, phases.strides
    middles, sizes = _sizes(builder, y, strides)
    if len(strides) == 1:
        y = reshape(builder, builder.op("Transpose", y, perm=[0, 2, 1]), -1, *sizes, channels)
        return builder.op("Transpose", y, perm=[0, 2, 1])
    y = builder.op("Transpose", y, perm=[0, 2, 3, 1])
    if strides[0] > 1:
        y = reshape(builder, y, -1, middles[1], strides[0], strides[1] * channels)
        y = builder.op("Transpose", y, perm=[0, 2, 1, 3])
    y = reshape(builder, y, -1, *sizes, channels)
    return builder.op("Transpose", y, perm=[0, 3, 1, 2])


def _sizes(
    builder: Builder, y: ir.Value, strides: Sequence[int]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Write the spatial sizes of y before and after depth-to-space.

    Reshape infers only the batch size (-1): with a batch of 0 it could infer no other size.
    """
    middles = [size_of(builder, y, axis + 2) for axis in range(len(strides))]
    sizes = [
        builder.op("Mul", middle, np.array([stride], np.int64)) if stride > 1 else middle
        for middle, stride in zip(middles, strides, strict=True)
    ]
    return middles, sizes


def size_of(builder: Builder, y: ir.Value, axis: int) -> ir.Value:
    """Write the size of one axis, which may depend on the model's input.

    Args:
        builder: writes the nodes.
        y: any value.
        axis: of y; negative from the last.
    Returns:
        the size, int64 (1,).
    """
    return builder.op("Gather", builder.op("Shape", y), np.array([axis], np.int64))


def reshape(builder: Builder, y: ir.Value, *sizes: int | ir.Value) -> ir.Value:
    """Write a Reshape.

    Args:
        builder: writes the nodes.
        y: any value.
        sizes: of each axis, an integer, with Reshape's 0 and -1, or an int64 (1,) value.
    Returns:
        y in its new shape.
    """
    if all(isinstance(size, int) for size in sizes):
        return builder.op("Reshape", y, np.array(sizes, np.int64))
    parts = [s if isinstance(s, ir.Value) else np.array([s], np.int64) for s in sizes]
    return builder.op("Reshape", y, builder.op("Concat", *parts, axis=0))
