"""Equality of every bit, the sign of zero included."""

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype == torch.float32 and torch.equal(
        a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
    )


def has_negative_zero(x: Tensor) -> bool:
    return bool(((x == 0) & torch.signbit(x)).any())
