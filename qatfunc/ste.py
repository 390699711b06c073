"""Straight-through gradients, by detach."""

import torch
from torch import Tensor


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return value, with the derivative of surrogate.

    y = value + (surrogate - surrogate)        dy = d surrogate

    It uses detach instead of an autograd Function: the transforms of torch.func, forward-mode and
    second derivatives, and torch.compile around torch.func.grad then need no rules of their own
    (torch.compile around torch.func.grad drops the backward of an autograd Function). The sum also
    turns -0.0 into +0.0, the only zero of an integer accumulator.

    Args:
        value: float32 or float64, finite.
        surrogate: of value's shape and dtype, finite.
    Returns:
        value's bits (with +0.0 for -0.0).
    Gradient: g to surrogate, nothing to value.
    Source: Bengio et al. 2013, arXiv:1308.3432.
    """
    return value.detach() + (surrogate - surrogate.detach())


def replace_value(x: Tensor, value: Tensor) -> Tensor:
    """Return value, with the derivative of x wherever x is finite.

    y = value        dy = dx where x is finite, 0 elsewhere

    Args:
        x: float32, a trained tensor, which may have become NaN or infinite.
        value: float32 of x's shape, used in its stead.
    Returns:
        value's bits (with +0.0 for -0.0).
    Gradient: g to x where it is finite, nothing to value.
    """
    fixed = x.detach()
    return straight_through(value, torch.where(torch.isfinite(fixed), x, torch.zeros_like(fixed)))
