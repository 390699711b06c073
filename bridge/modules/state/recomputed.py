"""Whether a forward quantized its inputs, for its recomputation by activation checkpointing."""

from collections.abc import Mapping

import torch
from torch import Tensor

Fingerprint = tuple[tuple[int, ...], ...]


class Passes:
    """Which calls of a layer passed their inputs unquantized, so that recomputations do too.

    A layer may be called several times in the training step in which its calibration ends. Calls
    before the end passed their inputs unquantized; backward recomputes all calls after it, in
    another order. A call is identified by a checksum of its inputs' bits. (Two calls with equal
    inputs are not distinguished.)
    """

    def __init__(self) -> None:
        self._latest = False
        self._passed: dict[Fingerprint, bool] = {}
        self._step = 0

    @property
    def any(self) -> bool:
        """Whether a call of this training step passed its inputs unquantized."""
        return bool(self._passed)

    def begin(self, step: int) -> None:
        """Forget the calls of an earlier training step.

        Args:
            step: a number that changes with every optimizer step.
        """
        if step != self._step:
            self._passed.clear()

    def record(self, inputs: Mapping[str, Tensor], *, passed: bool, step: int) -> None:
        """Record a call.

        Args:
            inputs: float32, by name.
            passed: whether the call left them unquantized.
            step: as begin's, read after the call, which may change it too.
        """
        self._latest, self._step = passed, step
        if passed:
            self._passed[fingerprint(inputs)] = True
        elif self._passed:
            # An earlier call with equal inputs may have passed them; this one is recomputed.
            self._passed.pop(fingerprint(inputs), None)

    def latest(self, *, passed: bool) -> None:
        """Record a call without a checksum: every recomputation until the next call is alike.

        Args:
            passed: whether the call left its inputs unquantized.
        """
        self._latest = passed
        self._passed.clear()

    def recall(self, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether the recorded call with these inputs passed them unquantized.

        Args:
            inputs: by name, with the same bits as in the recorded call.
        Returns:
            True if the call left them unquantized.
        """
        if not self._passed or self._latest:
            return self._latest
        return fingerprint(inputs) in self._passed


def fingerprint(inputs: Mapping[str, Tensor]) -> Fingerprint:
    """Return the shape and a checksum of each input.

        checksum = sum of (index + 1) * int32 bits of the element

    Args:
        inputs: float32, by name.
    Returns:
        (*shape, checksum) for each input.
    """
    return tuple((*x.shape, _checksum(x.detach())) for x in inputs.values())


def _checksum(x: Tensor) -> int:
    bits = x.flatten().view(torch.int32).to(torch.int64)
    return int((bits * torch.arange(1, len(bits) + 1, device=x.device)).sum())
