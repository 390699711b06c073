"""What an export refuses: numbers that no file can hold a quantizer for."""

import torch
from torch import Tensor


def check_finite(what: str, values: Tensor | None, *, positive: bool = False) -> None:
    """Raise unless all values are finite.

    Args:
        what: what to call them in a message.
        values: any shape, on any device; None where a layer has none.
        positive: whether they have to be above 0 too.
    Raises:
        ValueError: a value is NaN or infinite, or not positive.
    """
    if values is None:
        return
    if hasattr(values, "full_tensor"):  # fully_shard leaves each process a part of it
        values = values.full_tensor()
    bad = ~(torch.isfinite(values) & (values > 0)) if positive else ~torch.isfinite(values)
    if bool(bad.any()):
        kinds = "NaN, infinite or not positive" if positive else "NaN or infinite"
        which = values.item() if values.ndim == 0 else f"{kinds} in {int(bad.sum())} places"
        raise ValueError(
            f"cannot export: {what} is {which}; a training that diverged does that: load an "
            "earlier checkpoint, or calibrate again"
        )
