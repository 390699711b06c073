"""Numbers read off tensors: where that is allowed and costs next to nothing.

Numbers are Python floats on a CPU, where chains of operators on one-element tensors cost more
than small layers do and bounds given as tensors make torch.clamp ten times slower. On other
devices they stay tensors: reading them would stall the device. What tensors are divided or
multiplied by is a tensor everywhere: torch takes twice as long to bring a float to their type, and
elsewhere than on a CPU it divides by a float by multiplying with its reciprocal.
"""

import torch
from torch import Tensor

from qatfunc.numerics.torch_internals import is_jit_tracing, transforms_are_active

Number = float | Tensor


def traced() -> bool:
    """Whether somebody records what is computed, so that numbers read would become constants."""
    return torch.compiler.is_compiling() or is_jit_tracing()


def looks_at_values() -> bool:
    """Whether what is done may depend on values, at whatever cost: nobody records or transforms."""
    return not traced() and not transforms_are_active()


def reads_cheaply(x: Tensor) -> bool:
    """Whether reading a number off a tensor costs next to nothing."""
    return x.is_cpu


def reads_values(x: Tensor) -> bool:
    """Whether what is computed may depend on values and leave torch, at next to no cost.

    Nobody records or transforms what is computed, and x is a plain tensor on a CPU.
    """
    return type(x) is Tensor and reads_cheaply(x) and not traced() and not transforms_are_active()


def number(x: Tensor) -> Number:
    """Return a one-element tensor as a Python float where that costs next to nothing."""
    return x.item() if reads_cheaply(x) else x
