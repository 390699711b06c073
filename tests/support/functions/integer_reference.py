"""The quantized operators in NumPy integers, written from the formulas alone.

Every sum is an int64; float32 appears only where the formulas say so: in scales, in the rounding
of inputs and bias, and in the one product at the end. Nothing here comes from qatfunc.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

F32 = np.float32
EPS = F32(2.0**-23)
Ints = int | Sequence[int]
Array = NDArray[Any]


def symmetric_scale(high: Array, low: Array, bits: int) -> Array:
    """One step, so that the wider side of [low, high] ends on the grid's end."""
    qmax, below = F32(2 ** (bits - 1) - 1), F32(2 ** (bits - 1))
    scale = abs(high) / qmax if abs(high) >= abs(low) else abs(low) / below
    return F32(1.0) if scale < EPS else scale


def activation_grid(clip_max: Array, clip_min: Array, spec: Any) -> tuple[Array, int]:
    """Scale and zero point of a range."""
    high, low = np.maximum(clip_max, F32(0)), np.minimum(clip_min, F32(0))
    if spec.symmetric:
        return symmetric_scale(high, low, spec.bits), 0
    scale = (high - low) / F32(2**spec.bits - 1)
    if scale < EPS:
        return F32(1.0), -(2 ** (spec.bits - 1))
    return scale, int(np.rint(F32(-(2 ** (spec.bits - 1))) - low / scale))


def centered_codes(x: Array, scale: Array, zero_point: int, bits: int) -> Array:
    """The integers q - zero_point, as int64."""
    rounded = np.rint(x / scale).astype(np.float64) + zero_point
    stored = np.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return stored.astype(np.int64) - zero_point


def output_channels(weight: Array, *, transposed: bool, groups: int) -> Iterator[tuple[Any, ...]]:
    """An index for the part of the weight that belongs to each output channel."""
    if not transposed:
        yield from ((channel,) for channel in range(len(weight)))
        return
    rows = len(weight) // groups
    for group in range(groups):
        for column in range(weight.shape[1]):
            yield slice(group * rows, (group + 1) * rows), column


def weight_codes(
    weight: Array, spec: Any, scales: Array | None, *, transposed: bool, groups: int
) -> tuple[Array, Array]:
    """Codes of the weight, and its scale for each output channel (or one for all)."""
    channels = list(output_channels(weight, transposed=transposed, groups=groups))
    one_for_all = len(scales) == 1 if scales is not None else not spec.per_channel
    parts = [(...,)] if one_for_all else channels
    if scales is None:
        extremes = ((weight[part].max(), weight[part].min()) for part in parts)
        scales = np.array([symmetric_scale(high, low, spec.bits) for high, low in extremes], F32)
    codes = np.empty(weight.shape, np.int64)
    for part, scale in zip(parts, scales, strict=True):
        codes[part] = centered_codes(weight[part], scale, 0, spec.bits)
    return codes, scales


def linear(x: Tensor, params: Mapping[str, Any], spec: Any) -> Tensor:
    return _quantized(lambda a, w: a @ w.T, x, params, spec, channel_axis=-1)


def matmul(a: Tensor, b: Tensor, clips: Sequence[Any], spec: Any) -> Tensor:
    """Two activations."""
    codes, scales = [], []
    for x, clip in zip((a, b), clips, strict=True):
        scale, zero_point = activation_grid(*(end.numpy()[()] for end in clip), spec)
        codes.append(centered_codes(x.numpy(), scale, zero_point, spec.bits))
        scales.append(scale)
    return torch.from_numpy((codes[0] @ codes[1]).astype(F32) * (scales[0] * scales[1]))


def convolution(
    x: Tensor,
    params: Mapping[str, Any],
    spec: Any,
    *,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Convolutions over any number of axes."""
    axes = x.ndim - 2
    kernel = params["weight"].shape[2:]
    steps, gaps = _each(stride, axes), _each(dilation, axes)
    reach = [gap * (size - 1) for gap, size in zip(gaps, kernel, strict=True)]

    def op(a: Array, w: Array) -> Array:
        a = np.pad(a, [(0, 0), (0, 0), *_pads(padding, reach)])
        sizes = [(a.shape[2 + i] - reach[i] - 1) // steps[i] + 1 for i in range(axes)]
        total = np.zeros((a.shape[0], groups, w.shape[0] // groups, *sizes), np.int64)
        for offset in np.ndindex(*kernel):
            window = _window(offset, gaps, steps, sizes)
            taken = a[(..., *window)].reshape(a.shape[0], groups, -1, *sizes)
            taps = w[(..., *offset)].reshape(groups, w.shape[0] // groups, -1)
            total += np.einsum("ngi...,goi->ngo...", taken, taps)
        return total.reshape(a.shape[0], -1, *sizes)

    return _quantized(op, x, params, spec, channel_axis=1)


def transposed_convolution(
    x: Tensor,
    params: Mapping[str, Any],
    spec: Any,
    *,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Transposed convolutions: every input scatters its kernel over the output."""
    axes = x.ndim - 2
    kernel = params["weight"].shape[2:]
    steps, gaps = _each(stride, axes), _each(dilation, axes)
    cut, more = _each(padding, axes), _each(output_padding, axes)

    def op(a: Array, w: Array) -> Array:
        sizes = a.shape[2:]
        full = [
            (sizes[i] - 1) * steps[i] + gaps[i] * (kernel[i] - 1) + 1 + more[i] for i in range(axes)
        ]
        total = np.zeros((a.shape[0], groups, w.shape[1], *full), np.int64)
        grouped = a.reshape(a.shape[0], groups, -1, *sizes)
        for offset in np.ndindex(*kernel):
            taps = w[(..., *offset)].reshape(groups, -1, w.shape[1])
            window = _window(offset, gaps, steps, sizes)
            total[(..., *window)] += np.einsum("ngi...,gio->ngo...", grouped, taps)
        kept = [slice(c, size - c) for c, size in zip(cut, full, strict=True)]
        return total.reshape(a.shape[0], -1, *full)[(..., *kept)]

    return _quantized(op, x, params, spec, channel_axis=1, transposed=True, groups=groups)


def _quantized(
    op: Callable[[Array, Array], Array],
    x: Tensor,
    params: Mapping[str, Any],
    spec: Any,
    *,
    channel_axis: int,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    arrays = {key: value.numpy() for key, value in params.items() if key != "clip"}
    clip = [end.numpy()[()] for end in params["clip"]]
    scale_x, zero_point = activation_grid(*clip, spec.activation)
    codes_x = centered_codes(x.numpy(), scale_x, zero_point, spec.activation.bits)
    codes_w, scale_w = weight_codes(
        arrays["weight"],
        spec.weight,
        arrays.get("weight_scale"),
        transposed=transposed,
        groups=groups,
    )
    along = (-1,) + (1,) * (x.ndim - 2 if channel_axis == 1 else 0)
    rescale = (scale_x * scale_w).astype(F32).reshape(along)
    total = op(codes_x, codes_w)
    if "bias" in arrays:
        total = total + np.rint(arrays["bias"].reshape(along) / rescale).astype(np.int64)
    return torch.from_numpy(total.astype(F32) * rescale)


def _each(value: Ints, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _pads(padding: Ints | str, reach: Sequence[int]) -> list[tuple[int, int]]:
    if padding == "same":
        return [(total // 2, total - total // 2) for total in reach]
    amounts = [0] * len(reach) if padding == "valid" else _each(padding, len(reach))
    return [(amount, amount) for amount in amounts]


def _window(
    offset: Sequence[int], gaps: Sequence[int], steps: Sequence[int], sizes: Sequence[int]
) -> list[slice]:
    """Where a kernel's element meets the input, or lands in the output when transposed."""
    starts = [at * gap for at, gap in zip(offset, gaps, strict=True)]
    return [
        slice(start, start + step * (size - 1) + 1, step)
        for start, step, size in zip(starts, steps, sizes, strict=True)
    ]
