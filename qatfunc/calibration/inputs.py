"""Checks of calibration batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from qatfunc.limits import LARGEST_END
from qatfunc.numerics.concrete import may_read_values

LARGEST_INPUT = LARGEST_END / 2
"""Largest magnitude of a calibration input; the search also tries ranges wider than the input."""


def unusable(x: Tensor) -> str:
    """Return why a batch cannot be used for calibration; this waits for the device.

    Args:
        x: float32, any shape.
    Returns:
        the reason; empty if x has elements, all of them finite and at most LARGEST_INPUT in
        magnitude.
    """
    if x.numel() == 0:
        return f"calibration input has no elements, its shape is {tuple(x.shape)}"
    if not bool(torch.isfinite(x).all()):
        return "calibration input has NaN or infinite values"
    largest = x.detach().abs().amax().item()
    if largest > LARGEST_INPUT:
        return f"calibration input must be at most 2^63 (9.2e18) in magnitude, got {largest:g}"
    return ""


def check_input(where: str | Callable[[], str], x: Tensor, *, always: bool = False) -> None:
    """Raise if a batch cannot be used for calibration.

    Args:
        where: name of the layer for the message, or a function that returns it.
        x: its input, float32.
        always: check also under a transform and while tracing, where values may not be readable.
    Raises:
        ValueError: see unusable.
    """
    reason = unusable(x) if always or may_read_values() else ""
    if reason:
        raise ValueError(f"{where() if callable(where) else where}: {reason}")
