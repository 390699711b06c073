"""Refusing to export NaN and infinity, which a diverged training leaves."""

import torch
from torch import Tensor


def check_finite(what: str, values: Tensor | None, *, positive: bool = False) -> None:
    """Raise unless all values are finite.

    Args:
        what: name of the values, for the message.
        values: any shape, on any device; None is accepted.
        positive: whether they must be greater than 0, too.
    Raises:
        ValueError: a value is NaN or infinite, or not positive.
    """
    if values is None:
        return
    if hasattr(values, "full_tensor"):  # a DTensor: fully_shard leaves each rank a shard
        values = values.full_tensor()
    bad = ~(torch.isfinite(values) & (values > 0)) if positive else ~torch.isfinite(values)
    if bool(bad.any()):
        kinds = "NaN, infinite or not positive" if positive else "NaN or infinite"
        which = values.item() if values.ndim == 0 else f"{kinds} in {int(bad.sum())} elements"
        raise ValueError(
            f"cannot export: {what} is {which}; a training that diverged leaves such values: "
            "load an earlier checkpoint, or calibrate again"
        )
