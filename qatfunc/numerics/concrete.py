"""Where the values of tensors may be read as Python numbers, and where that is cheap.

On a CPU, scales and bounds are read: chains of operators on one-element tensors cost more than a
small layer, and bounds given as tensors make torch.clamp ten times slower. On other devices they
stay tensors, because reading one waits for the device. Divisors and factors of tensors are tensors
on all devices: converting a float takes torch twice as long, and on other devices than a CPU torch
multiplies by a float's reciprocal instead of dividing.
"""

import torch
from torch import Tensor

from qatfunc.numerics.torch_internals import is_jit_tracing, transforms_are_active

Number = float | Tensor


def traced() -> bool:
    """Whether torch.compile, export or jit.trace is tracing, which makes values constants."""
    return torch.compiler.is_compiling() or is_jit_tracing()


def may_read_values() -> bool:
    """Whether a computation may depend on values, at any cost: nothing traces or transforms it."""
    return not traced() and not transforms_are_active()


def reads_cheaply(x: Tensor) -> bool:
    """Whether reading a tensor's value is cheap."""
    return x.is_cpu


def reads_values(x: Tensor) -> bool:
    """Whether a computation may depend on x's values and use NumPy, cheaply.

    Nothing traces or transforms it, and x is a plain tensor on a CPU.
    """
    return type(x) is Tensor and reads_cheaply(x) and not traced() and not transforms_are_active()


def number(x: Tensor) -> Number:
    """Return a one-element tensor as a Python float where reading it is cheap."""
    return x.item() if reads_cheaply(x) else x
