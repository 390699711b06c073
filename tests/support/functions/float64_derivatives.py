"""The derivatives of activation functions in float64, written from their formulas."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _silu(x: Tensor, _: float) -> Tensor:
    s = _logistic(x)
    return s * (1 + x * (1 - s))


def _gelu(x: Tensor, _: float) -> Tensor:
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density


def _gelu_tanh(x: Tensor, _: float) -> Tensor:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x) / 2


def _hardswish(x: Tensor, _: float) -> Tensor:
    return torch.where(x >= 3, 1.0, torch.where(x <= -3, 0.0, x / 3 + 0.5))


def _mish(x: Tensor, _: float) -> Tensor:
    t = torch.tanh(torch.log1p(torch.exp(x)))
    return t + x * (1 - t * t) * _logistic(x)


DERIVATIVES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda x, _: (x > 0).double(),
    "leaky_relu": lambda x, slope: torch.where(x > 0, 1.0, slope),
    "sigmoid": lambda x, _: _logistic(x) * (1 - _logistic(x)),
    "tanh": lambda x, _: 1 - torch.tanh(x) ** 2,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": _hardswish,
    "hardsigmoid": lambda x, _: ((x > -3) & (x < 3)).double() / 6,
    "softplus": lambda x, _: _logistic(x),
    "elu": lambda x, alpha: torch.where(x > 0, 1.0, alpha * torch.exp(x)),
    "mish": _mish,
}
"""Of x and the function's parameter; at kinks what torch takes."""
