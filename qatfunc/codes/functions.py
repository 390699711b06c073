"""Activation functions of one value, and how exactly they are computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Entry(NamedTuple):
    apply: Callable[[Tensor, float], Tensor]
    size: Callable[[Tensor], Tensor]
    parameter: bool = False


# Sizes of intermediate results: 1 + erf(x) has few digits where x is negative, exp(x) - 1 where x
# is small; an engine's error there is larger than an ulp of the result.
_one = torch.ones_like
_small = partial(torch.clamp, min=-1.0, max=1.0)

_ENTRIES = {
    "relu": _Entry(lambda x, _: torch.relu(x), torch.zeros_like),
    "leaky_relu": _Entry(F.leaky_relu, torch.zeros_like, parameter=True),
    "sigmoid": _Entry(lambda x, _: torch.sigmoid(x), _one),
    "tanh": _Entry(lambda x, _: torch.tanh(x), _small),
    "silu": _Entry(lambda x, _: F.silu(x), torch.abs),
    "gelu": _Entry(lambda x, _: F.gelu(x), torch.abs),
    "gelu_tanh": _Entry(lambda x, _: F.gelu(x, approximate="tanh"), torch.abs),
    "hardswish": _Entry(lambda x, _: F.hardswish(x), torch.abs),
    # F.hardsigmoid has no second derivative.
    "hardsigmoid": _Entry(lambda x, _: F.relu6(x + 3) / 6, _one),
    "softplus": _Entry(lambda x, _: F.softplus(x), _one),
    "elu": _Entry(F.elu, _one, parameter=True),
    "mish": _Entry(lambda x, _: F.mish(x), torch.abs),
}

FUNCTIONS = tuple(_ENTRIES)
"""The names of the functions."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function of one value.

    Args:
        name: one of FUNCTIONS.
        parameter: the negative slope of leaky_relu, alpha of elu; 0 for the others.
    Raises:
        ValueError: there is no such function, or it has no parameter.

    >>> Activation("leaky_relu", 0.5)(torch.tensor([-3.0, 2.0]))
    tensor([-1.5000,  2.0000])
    """

    name: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _ENTRIES:
            raise ValueError(f"name must be one of {', '.join(FUNCTIONS)}, got {self.name!r}")
        if self.parameter and not _ENTRIES[self.name].parameter:
            raise ValueError(f"{self.name} has no parameter, got {self.parameter}")

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the function in x's dtype.

        Args:
            x: float32 or float64, any shape.
        Returns:
            of x's shape and dtype.
        Gradient: torch's.
        """
        return _ENTRIES[self.name].apply(x, self.parameter)

    def size(self, x: Tensor) -> Tensor:
        """Return a bound of the intermediate results whose rounding errors the result contains.

        Args:
            x: float64, any shape.
        Returns:
            of x's shape, not negative.
        """
        return _ENTRIES[self.name].size(x).abs()
