"""INT8 matrix products of linear layers on a CPU, where they are exact and faster than float32.

float32 and int32 sums are equal while every partial sum stays below 2^24, which sums of |weight|
bound, if the INT8 kernel is correct. For some CPUs and shapes it is not (pairwise sums that
saturate; products with one column), so every shape is tried first, see int8_trial. Convolutions
always compute in float32: oneDNN's INT8 convolutions were wrong or crashed for some geometries, and
packing the weight at every call took as long as INT8 saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from qatfunc.fused.grid import Grid
from qatfunc.fused.int8_trial import Operands, Signature, Trials, Ways, extremes, passes_trial
from qatfunc.limits import EXACT_FLOAT32
from qatfunc.linear_maps.bilinear import Bilinear, Linear
from qatfunc.numerics.torch_internals import int8_matmul

Mode = Literal["auto", "always", "never"]

_MODE: ContextVar[Mode] = ContextVar("int8_forward", default="auto")

_FEWEST_ROWS = 64
"""Rows of an input below which INT8 saves no time."""
_FEWEST_WEIGHTS = 1 << 14
"""Weights below which INT8 saves no time."""
_SMALLEST_SIDE = 16
"""Rows, inputs and outputs below which no shape is tried: with one column, kernels were wrong."""
_LARGEST_OPERAND = 1 << 25
"""Elements above which no shape is tried, as a trial takes as much memory again."""
_CALLS_BEFORE_TRIAL = 16
"""Calls of a shape before its trial in mode "auto"; a trial takes as long as about eight calls."""

_TRIALS = Trials()


@contextmanager
def int8_forward(mode: Mode) -> Iterator[None]:
    """Choose when quantized linear layers compute in INT8 on a CPU; results do not change.

    Args:
        mode: "auto" (the default), where a trial found INT8 exact and faster; "always", where a
            trial found it exact, even if slower; "never".
    Raises:
        ValueError: mode is another string.
    """
    if mode not in ("auto", "always", "never"):
        raise ValueError(f'mode must be "auto", "always" or "never", got {mode!r}')
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)


def integer_sums(op: Bilinear, x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Apply an operator to integers, in INT8 where a trial of the shape allows that.

    Args:
        op: the operator.
        x: float32, integers of the grid.
        weight: float32, integers.
        grid: x's.
    Returns:
        float32, op(x, weight).
    """
    mode = _MODE.get()
    if mode == "never" or not _is_candidate(op, x, weight, mode):
        return op(x, weight)
    signature = Signature(mode, x.numel() // x.shape[-1], *weight.shape[::-1])
    due = _TRIALS.is_due(signature, after=_CALLS_BEFORE_TRIAL if mode == "auto" else 0)
    if not (due or _TRIALS.has_passed(signature)):
        return op(x, weight)
    fits = has_equal_sums(x, weight, grid)
    if mode == "auto":
        _TRIALS.note(signature, fits=fits)
    if fits and due:
        _TRIALS.hold(signature, lambda: _passes(op, (x, weight, grid), timed=mode == "auto"))
    return int8_sums(x, weight, grid) if fits and not due else op(x, weight)


def int8_sums(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """Multiply 8-bit integers in INT8; exact only if the CPU's kernel is.

    Args:
        x: float32 (*, in), integers of the grid.
        weight: float32 (out, in), integers from -128 to 127.
        grid: x's, of at most 256 integers.
    Returns:
        float32 (*, out), x @ weight.T.
    """
    shift = int(grid.low) + 128
    codes = torch.sub(x.flatten(0, -2), shift).to(torch.int8).contiguous()
    sums = int8_matmul(codes, weight.to(torch.int8).contiguous().t())
    sums.add_(weight.sum(1).to(torch.int32), alpha=shift)
    return sums.to(torch.float32).unflatten(0, x.shape[:-1])


def has_equal_sums(x: Tensor, weight: Tensor, grid: Grid) -> bool:
    """Return whether operands fit 8 bits and their sums are exact in any order.

    Args:
        x: float32, integers of the grid, or NaN.
        weight: float32, integers or NaN.
        grid: x's.
    Returns:
        True if float32 and int32 hold every partial sum exactly; False with NaN.
    """
    low, high = float(grid.low), float(grid.high)
    if not (high - low <= 255 and -255 <= low <= 0 <= high):
        return False
    reach = max(-low, high) * weight.abs().sum(1).amax().item()
    least, most = (end.item() for end in torch.aminmax(weight))
    fits = least >= -128 and most <= 127 and reach < EXACT_FLOAT32
    return fits and x.sum().item() < torch.inf


def _sums_if_equal(x: Tensor, weight: Tensor, grid: Grid) -> Tensor | None:
    return int8_sums(x, weight, grid) if has_equal_sums(x, weight, grid) else None


def _passes(op: Bilinear, own: Operands, *, timed: bool) -> bool:
    # The time to check the operands counts as part of INT8.
    return _medium_shape_passes(timed=timed) and passes_trial(
        Ways(_sums_if_equal, op), own, timed=timed
    )


def _is_candidate(op: Bilinear, x: Tensor, weight: Tensor, mode: Mode) -> bool:
    """Whether INT8 may be used for operands of these shapes."""
    if not isinstance(op, Linear) or type(x) is not Tensor or not x.is_cpu:
        return False
    if mode == "auto" and weight.numel() < _FEWEST_WEIGHTS:
        return False
    inputs = x.shape[-1]
    rows = x.numel() // inputs if inputs else 0
    if rows < (_FEWEST_ROWS if mode == "auto" else _SMALLEST_SIDE):
        return False
    largest = max(x.numel(), weight.numel(), rows * len(weight))
    return min(weight.shape) >= _SMALLEST_SIDE and largest <= _LARGEST_OPERAND


@cache
def _medium_shape_passes(*, timed: bool) -> bool:
    """Whether a shape of medium size passes; if not, trials of large ones would take seconds."""
    own = next(extremes(128, 256, 256))
    return passes_trial(Ways(_sums_if_equal, Linear()), own, timed=timed)
