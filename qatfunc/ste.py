"""Straight-through gradients as plain composition."""

import torch
from torch import Tensor


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return value's numbers with surrogate's derivative.

    y = value + (surrogate - surrogate)        dy = d surrogate

    Written with detach instead of an autograd Function, so that every transform of torch.func,
    forward and double differentiation, and torch.compile around torch.func.grad are right
    without a rule of ours (compiling the gradient of an autograd Function drops its backward).
    The sum also turns -0.0 into +0.0, the only zero an integer accumulator has.

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
    """Straight through for a trained number that training may have made NaN or infinite.

    y = value        dy = dx where x is finite, 0 elsewhere

    Args:
        x: float32, what is trained.
        value: float32 of x's shape, what is used.
    Returns:
        value's bits (with +0.0 for -0.0).
    Gradient: g to x where it is finite, nothing to value.
    """
    fixed = x.detach()
    return straight_through(value, torch.where(torch.isfinite(fixed), x, torch.zeros_like(fixed)))
