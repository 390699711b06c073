"""Which batches are of use to calibration."""

from collections.abc import Callable

import torch
from torch import Tensor

from qatfunc.limits import LARGEST_END
from qatfunc.numerics.concrete import looks_at_values

LARGEST_INPUT = LARGEST_END / 2
"""The largest magnitude that ranges are found for, as a search tries wider ones."""


def unusable(x: Tensor) -> str:
    """Say why a batch is of no use to calibration, which waits for the device.

    Args:
        x: float32, any shape.
    Returns:
        what is wrong; nothing where x has elements, all finite and at most LARGEST_INPUT in
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
    """Refuse a batch that is of no use.

    Args:
        where: name of the layer for the message, or what finds it out.
        x: its input, float32.
        always: check values also under a transform and while compiling, where they may have none.
    Raises:
        ValueError: see unusable.
    """
    reason = unusable(x) if always or looks_at_values() else ""
    if reason:
        raise ValueError(f"{where() if callable(where) else where}: {reason}")
