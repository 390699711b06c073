"""Which forwards left their inputs unquantized, for those that backward() computes again."""

from collections.abc import Mapping

import torch
from torch import Tensor

Fingerprint = tuple[tuple[int, ...], ...]


class Passes:
    """What activation checkpointing needs to know: whether a call passed its inputs unquantized.

    A layer may be called several times within the step in which its calibration ends. Its calls
    are then computed again in another order, after it has ended, and are told apart by the bits
    of their inputs. (Two such calls with equal inputs are one to this record.)
    """

    def __init__(self) -> None:
        self._latest = False
        self._passed: dict[Fingerprint, bool] = {}
        self._step = 0

    @property
    def any(self) -> bool:
        """Whether a call of this step is known to have passed its inputs."""
        return bool(self._passed)

    def begin(self, step: int) -> None:
        """Forget what an earlier step did.

        Args:
            step: a number that changes when an optimizer steps.
        """
        if step != self._step:
            self._passed.clear()

    def record(self, inputs: Mapping[str, Tensor], *, passed: bool, step: int) -> None:
        """Remember what a call did.

        Args:
            inputs: float32.
            passed: whether they stayed unquantized.
            step: as begin's, after the call, which may change it too.
        """
        self._latest, self._step = passed, step
        if passed:
            self._passed[fingerprint(inputs)] = True
        elif self._passed:
            # Its inputs may be those of an earlier call that nobody differentiated.
            self._passed.pop(fingerprint(inputs), None)

    def latest(self, *, passed: bool) -> None:
        """Remember a call that is not distinguished from others.

        Args:
            passed: whether inputs stayed unquantized.
        """
        self._latest = passed
        self._passed.clear()

    def recall(self, inputs: Mapping[str, Tensor]) -> bool:
        """Return whether the call with these inputs passed them.

        Args:
            inputs: with the bits that they had then.
        Returns:
            True if they stayed unquantized.
        """
        if not self._passed or self._latest:
            return self._latest
        return fingerprint(inputs) in self._passed


def fingerprint(inputs: Mapping[str, Tensor]) -> Fingerprint:
    """Return what tells inputs from others: shapes, and a sum of bits weighted by position.

    Args:
        inputs: float32.
    Returns:
        one tuple an input.
    """
    return tuple((*x.shape, _checksum(x.detach())) for x in inputs.values())


def _checksum(x: Tensor) -> int:
    bits = x.flatten().view(torch.int32).to(torch.int64)
    return int((bits * torch.arange(1, len(bits) + 1, device=x.device)).sum())
