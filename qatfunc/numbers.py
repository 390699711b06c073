"""Numbers read off tensors: where that is allowed and costs next to nothing.

Numbers are Python floats on a CPU, where operators on one-element tensors cost more than small
layers do and bounds given as tensors make torch.clamp ten times slower. On other devices they
stay tensors: reading them would stall the device, and dividing by a float multiplies by its
reciprocal there.
"""

import torch
from torch import Tensor

Number = float | Tensor


def traced() -> bool:
    """Whether somebody records what is computed, so that numbers read would become constants."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or tracing


def reads_cheaply(x: Tensor) -> bool:
    """Whether reading a number off a tensor costs next to nothing."""
    return x.is_cpu


def number(x: Tensor) -> Number:
    """Return a one-element tensor as a Python float where that costs next to nothing."""
    return x.item() if reads_cheaply(x) else x
