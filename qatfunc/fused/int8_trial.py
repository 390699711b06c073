"""Which shapes of a matrix product may be computed in INT8: each is tried on operands of its own.

    earned = equal sums on its first operands
             and equal sums on extreme operands of the same shape
             and, where time matters, at most 1 / MARGIN of the time that floats take

No property of a CPU says beforehand which shapes its kernels compute rightly or faster.
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
"""How many times as fast as floats integers have to be: what timing a few calls can tell."""
HOPELESS = 2.0
"""How many times as slow as floats integers may be before a trial ends early."""

_MOST_TRIALS = 256
_MOST_COUNTED = 1024
_MOST_MISFITS = 8

_BLOCK, _MOST_INPUTS = 64, 896
"""Extreme weights are zero but in blocks of inputs, as float32 sums 1,024 products of 2^14."""

Operands = tuple[Tensor, Tensor, Grid]
"""x (*, in) and weight (out, in), float32 integers, and x's grid."""


class Ways(NamedTuple):
    """Two ways to the same sums."""

    integers: Callable[[Tensor, Tensor, Grid], Tensor | None]
    """None where operands do not fit."""
    floats: Callable[[Tensor, Tensor], Tensor]


class Signature(NamedTuple):
    """What a kernel depends on beside values; `mode` says what a trial has to show."""

    mode: str
    rows: int
    inputs: int
    outputs: int


class Trials:
    """What trials have shown, in this process; neither it nor their number grows without bound."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._earned: dict[tuple[Signature, int, bool], bool] = {}
        self._calls: dict[Signature, int] = {}
        self._misfits: dict[Signature, int] = {}

    def has_earned(self, signature: Signature) -> bool:
        """Return whether a trial of the signature was held and passed."""
        return self._earned.get(_with_settings(signature), False)

    def is_due(self, signature: Signature, *, after: int) -> bool:
        """Count a call, and return whether the signature's trial is to be held now.

        Args:
            signature: of the call.
            after: calls that come before the trial.
        Returns:
            False once a trial was held, and where as many were held as may be.
        """
        if _with_settings(signature) in self._earned or len(self._earned) >= _MOST_TRIALS:
            return False
        if len(self._calls) >= _MOST_COUNTED:
            self._calls, self._misfits = {}, {}
        calls = self._calls.get(signature, 0)
        self._calls[signature] = calls + 1
        return calls >= after

    def note(self, signature: Signature, *, fits: bool) -> None:
        """Refuse a signature whose operands keep failing to fit, since looking at them takes time.

        Args:
            signature: of a call.
            fits: whether its operands do.
        """
        misfits = 0 if fits else self._misfits.get(signature, 0) + 1
        self._misfits[signature] = misfits
        if misfits >= _MOST_MISFITS:
            self._earned[_with_settings(signature)] = False

    def hold(self, signature: Signature, trial: Callable[[], bool]) -> None:
        """Hold a trial, unless another thread holds one, which would spoil its times.

        Args:
            signature: what is tried.
            trial: returns whether it passed.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._earned[_with_settings(signature)] = trial()
        finally:
            self._lock.release()
            self._calls.pop(signature, None)


def is_earned(ways: Ways, own: Operands, *, timed: bool) -> bool:
    """Try whether integers give the sums of floats and, if asked, in clearly less time.

    Args:
        ways: the two ways.
        own: operands, which fit.
        timed: whether time matters.
    Returns:
        whether the integers earn their use for operands of these shapes.
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
    """Return operands at the ends of 8 bits, in all combinations of signs.

    Args:
        rows: of x.
        inputs: columns of x and of the weight.
        outputs: rows of the weight.
    Returns:
        three pairs, one at a time, whose sums float32 holds.
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
    """Add the settings of torch by which it chooses a kernel."""
    return signature, torch.get_num_threads(), onednn_is_enabled()
