"""Trials of which shapes of a matrix product INT8 computes exactly, and faster than float32.

    passed = equal sums of the first operands of the shape
             and equal sums of extreme operands of the shape
             and, if timed, at most 1 / MARGIN of float32's time

No documented property of a CPU tells for which shapes its kernels are exact or faster.
"""

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.fused.grid import Grid
from qatfunc.numerics.torch_internals import onednn_is_enabled

MARGIN = 1.1
"""Factor by which INT8 must be faster; timing a few calls does not resolve less."""
HOPELESS = 2.0
"""Factor by which INT8 may be slower before a trial is stopped early."""

_MOST_TRIALS = 256
_MOST_COUNTERS = 1024
_MOST_MISFITS = 8

_BLOCK, _MOST_INPUTS = 64, 896
"""Extreme weights are 0 except in blocks of inputs: float32 sums 1,024 products of 2^14 exactly."""

Operands = tuple[Tensor, Tensor, Grid]
"""x (*, in) and weight (out, in), float32 integers, and x's grid."""


class Ways(NamedTuple):
    """The two kernels that a trial compares."""

    integers: Callable[[Tensor, Tensor, Grid], Tensor | None]
    """It returns None for operands that do not fit 8 bits."""
    floats: Callable[[Tensor, Tensor], Tensor]


class Signature(NamedTuple):
    """The shape of a call; a trial is timed if `mode` is "auto"."""

    mode: str
    rows: int
    inputs: int
    outputs: int


class Trials:
    """Results of trials in this process; their number, and that of counted calls, is limited."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._passed: dict[tuple[Signature, int, bool], bool] = {}
        self._calls: dict[Signature, int] = {}
        self._misfits: dict[Signature, int] = {}

    def has_passed(self, signature: Signature) -> bool:
        """Return whether a trial of the signature was run and passed."""
        return self._passed.get(_with_settings(signature), False)

    def is_due(self, signature: Signature, *, after: int) -> bool:
        """Count a call, and return whether the signature's trial is due.

        Args:
            signature: of the call.
            after: calls that come before the trial.
        Returns:
            False after the trial, and once the largest number of trials is reached.
        """
        if _with_settings(signature) in self._passed or len(self._passed) >= _MOST_TRIALS:
            return False
        if len(self._calls) >= _MOST_COUNTERS:
            self._calls, self._misfits = {}, {}
        calls = self._calls.get(signature, 0)
        self._calls[signature] = calls + 1
        return calls >= after

    def note(self, signature: Signature, *, fits: bool) -> None:
        """Refuse a signature whose operands repeatedly do not fit: checking them takes time.

        Args:
            signature: of a call.
            fits: whether its operands fit 8 bits.
        """
        misfits = 0 if fits else self._misfits.get(signature, 0) + 1
        self._misfits[signature] = misfits
        if misfits >= _MOST_MISFITS:
            self._passed[_with_settings(signature)] = False

    def hold(self, signature: Signature, trial: Callable[[], bool]) -> None:
        """Run a trial, unless another thread runs one, which would distort the times.

        Args:
            signature: of the call.
            trial: returns whether the signature passes.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._passed[_with_settings(signature)] = trial()
        finally:
            self._lock.release()
            self._calls.pop(signature, None)


def passes_trial(ways: Ways, own: Operands, *, timed: bool) -> bool:
    """Return whether INT8 gives the sums of float32 and, if timed, in clearly less time.

    Args:
        ways: the two kernels.
        own: operands of the call, which fit 8 bits.
        timed: whether INT8 must be faster, too.
    Returns:
        whether INT8 may be used for operands of these shapes.
    """
    try:
        if not _is_equal(ways, own):  # the first call, which also prepares the kernel
            return False
        best = [float("inf"), float("inf")]
        for operands in extremes(own[0].numel() // own[0].shape[-1], *own[1].shape[::-1]):
            started = time.perf_counter()
            integers = ways.integers(*operands)
            between = time.perf_counter()
            floats = ways.floats(*operands[:2])
            ended = time.perf_counter()
            best = [min(best[0], between - started), min(best[1], ended - between)]
            if integers is None or not torch.equal(integers, floats):
                return False
            if timed and best[0] > HOPELESS * best[1]:
                return False
    except RuntimeError:  # a kernel that this CPU does not have
        return False
    return not timed or best[0] * MARGIN <= best[1]


def extremes(rows: int, inputs: int, outputs: int) -> Iterator[Operands]:
    """Return operands with the extreme 8-bit values, in all combinations of signs.

    Args:
        rows: of x.
        inputs: columns of x and of the weight.
        outputs: rows of the weight.
    Returns:
        three pairs, one at a time, whose sums are exact in float32.
    """
    like = {"dtype": torch.float32, "device": "cpu"}
    grid = Grid(torch.ones((), **like), -128.0, 127.0)  # type: ignore[call-overload]
    weight = torch.full((outputs, inputs), 127.0, **like)  # type: ignore[call-overload]
    weight[1::4], weight[2::4, ::2], weight[3::4] = -128.0, -128.0, -127.0
    every = -(-inputs // _MOST_INPUTS)
    blocks = torch.arange(inputs, device="cpu") // _BLOCK
    phases = blocks + torch.arange(outputs, device="cpu").unsqueeze(1)
    weight[phases % every != 0] = 0.0
    x = torch.full((rows, inputs), 127.0, **like)  # type: ignore[call-overload]
    yield x, weight, grid
    x[::2, ::2], x[1::2, 1::3] = -128.0, -128.0
    yield x, weight, grid
    yield x.fill_(-128.0), weight, grid


def _is_equal(ways: Ways, operands: Operands) -> bool:
    integers = ways.integers(*operands)
    return integers is not None and torch.equal(integers, ways.floats(*operands[:2]))


def _with_settings(signature: Signature) -> tuple[Signature, int, bool]:
    """Add the settings of torch that determine the kernel."""
    return signature, torch.get_num_threads(), onednn_is_enabled()
