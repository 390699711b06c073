"""Sums of integers by a CPU's INT8 instructions, where they give the same bits in less time.

Both ways give the same bits while every partial sum stays below 2^24, which sums of the weights'
magnitudes prove. Some CPUs saturate where two products of uint8 by int8 are added, some are slow
at integers: a probe at first use finds out both.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qatfunc.bilinear import Bilinear, Convolution, Linear
from qatfunc.grid import Grid

Mode = Literal["auto", "always", "never"]

_MODE: ContextVar[Mode] = ContextVar("int8_forward", default="auto")

_EXACT = 2.0**24
_FEWEST_ROWS = 64
"""Rows of a linear layer's input below which integers save nothing."""
_FEWEST_POSITIONS = 1500
"""Output positions of a convolution below which packing its weight takes what integers save."""


@contextmanager
def int8_forward(mode: Mode) -> Iterator[None]:
    """Say whether forwards of quantized layers may run in INT8 on a CPU; no bit depends on it.

    Args:
        mode: "auto", where it was found to be exact and faster, which is the default; "always",
            where it is exact, however slow; "never".
    Raises:
        ValueError: mode is something else.
    """
    if mode not in ("auto", "always", "never"):
        raise ValueError(f'mode must be "auto", "always" or "never", got {mode!r}')
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)


def integer_sums(op: Bilinear, x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Apply an operator to integers, in INT8 where that serves.

    Args:
        op: the operator.
        x: float32, integers of the grid.
        weight: float32, integers.
        grid: x's.
    Returns:
        float32, op(x, weight).
    """
    mode = _MODE.get()
    if mode == "never" or (mode == "auto" and not _is_large(op, x, weight)):
        return op(x, weight)
    kind = _kind(op, x)
    if kind is None or not _is_exact(kind):
        return op(x, weight)
    if (mode == "auto" and not _is_faster(kind)) or not _has_equal_sums(x, weight, grid):
        return op(x, weight)
    return int8_sums(op, x, weight, grid)


def int8_sums(op: Bilinear, x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Apply an operator to 8-bit integers in INT8, whether or not this CPU does so exactly.

    Args:
        op: a linear map or a plain two-dimensional convolution.
        x: float32, integers of the grid.
        weight: float32, integers from -128 to 127.
        grid: x's, of at most 256 integers.
    Returns:
        float32, op(x, weight) in x's memory format.
    """
    if isinstance(op, Linear):
        return _linear(x, weight, grid)
    return _convolution(op, x, weight, grid)


def _linear(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    shift = int(grid.low) + 128
    codes = torch.sub(x.flatten(0, -2), shift).to(torch.int8)
    sums = torch._int_mm(codes, weight.to(torch.int8).t())
    sums.add_(weight.sum(1).to(torch.int32), alpha=shift)
    return sums.to(torch.float32).unflatten(0, x.shape[:-1])


def _convolution(op: Convolution, x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    zero_point = -int(grid.low)
    codes = torch.add(x, zero_point).to(torch.uint8)
    ones, zeros = weight.new_ones(len(weight)), weight.new_zeros(len(weight), dtype=torch.int64)
    geometry = list(op.stride), list(op.padding), list(op.dilation), op.groups
    packed = torch.ops.onednn.qconv_prepack(
        weight.to(torch.int8), ones, 1.0, zero_point, *geometry, list(x.shape)
    )
    operands = codes, 1.0, zero_point, packed, ones, zeros, None
    as_it_is = "none", (), ""
    y: Tensor = torch.ops.onednn.qconv_pointwise(
        *operands, *geometry, 1.0, 0, torch.float32, *as_it_is
    )
    # oneDNN answers in channels_last, whatever it is asked in.
    return y.contiguous() if x.is_contiguous() else y


class _Kind(NamedTuple):
    """An operator to probe, on operands of certain shapes."""

    op: Bilinear
    x: tuple[int, ...]
    weight: tuple[int, ...]


_PROBED = Grid(torch.ones((), device="cpu"), -100.0, 155.0)
_PLAIN = {"dilation": (1, 1), "groups": 1, "transposed": False, "output_padding": (0, 0)}
_KINDS = {
    "linear": _Kind(Linear(), (64, 256), (256, 256)),
    "convolution": _Kind(
        Convolution(stride=(1, 1), padding=(1, 1), **_PLAIN),  # type: ignore[arg-type]
        (4, 28, 24, 24),
        (64, 28, 3, 3),
    ),
}


def _kind(op: Bilinear, x: Tensor) -> str | None:
    """Return what to probe for an operator, None where there is nothing for it in INT8."""
    if not x.is_cpu or x.numel() == 0:
        return None
    if isinstance(op, Linear):
        return "linear"
    plain = not (op.transposed or op.outer) and op.groups == 1 and len(op.stride) == 2
    return "convolution" if plain else None


def _is_large(op: Bilinear, x: Tensor, weight: Tensor) -> bool:
    if isinstance(op, Linear):
        return x.numel() >= _FEWEST_ROWS * x.shape[-1] and weight.numel() >= 1 << 14
    positions = x.numel() // x.shape[1]
    for stride in op.stride:
        positions //= stride
    return positions >= _FEWEST_POSITIONS


def _has_equal_sums(x: Tensor, weight: Tensor, grid: Grid) -> bool:
    """Whether operands fit 8 bits and no order of summation rounds; NaN makes every answer no."""
    low, high = float(grid.low), float(grid.high)
    if not (high - low <= 255 and -255 <= low <= 0 <= high):
        return False
    magnitudes = weight.abs().flatten(1)
    reach = max(-low, high) * magnitudes.sum(1).amax().item()
    least, most = (end.item() for end in torch.aminmax(weight))
    fits = least >= -128 and most <= 127 and reach < _EXACT
    return fits and x.sum().item() < torch.inf


@cache
def _is_exact(kind: str) -> bool:
    """Whether the largest operands give the right sums."""
    op = _KINDS[kind].op
    return all(
        torch.equal(int8_sums(op, x, weight, _PROBED), op(x, weight))
        for x, weight in _extremes(_KINDS[kind], _PROBED)
    )


@cache
def _is_faster(kind: str) -> bool:
    op = _KINDS[kind].op
    x, weight = _extremes(_KINDS[kind], _PROBED)[0]
    ways = partial(int8_sums, op, x, weight, _PROBED), partial(op, x, weight)
    times = [[_seconds(way) for way in ways] for _ in range(4)]
    integers, floats = zip(*times[1:], strict=True)  # the first one warms up
    return min(integers) < min(floats)


def _seconds(function: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _extremes(kind: _Kind, grid: Grid) -> list[tuple[Tensor, Tensor]]:
    """Return operands at the ends of their ranges; 255 by 127 tells more than 127 by 127."""
    like = {"dtype": torch.float32, "device": "cpu"}
    x = torch.full(kind.x, float(grid.high), **like)  # type: ignore[call-overload]
    weight = torch.full(kind.weight, 127.0, **like)  # type: ignore[call-overload]
    weight[1::4], weight[2::4, ::2], weight[3::4, 1::2] = -127.0, -127.0, -127.0
    mixed = x.clone()
    mixed[:, ::2] = float(grid.low)
    return [(x, weight), (mixed, weight), (torch.full_like(x, float(grid.low)), weight)]
