"""A quantized value: as numbers, for proofs, and as tensors, for operators."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatfunc.numerics.arithmetic import to_float32
from qatfunc.params import Adopted, Clip, QParams
from qatfunc.spec import ActivationSpec, IntSpec
from qatfunc.ulq import ulq_qparams

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueGrid:
    """A quantized value: code q represents (q - zero_point) * scale, for qmin <= q <= qmax.

    Args:
        scale: a positive float32 number.
        zero_point: the code of 0.0.
        spec: integer range of the codes.
    Raises:
        ValueError: scale is no positive finite float32 number, or zero_point no code.
    """

    scale: float
    zero_point: int
    spec: IntSpec = field(default_factory=IntSpec)

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < math.inf or to_float32(self.scale) != self.scale:
            raise ValueError(f"scale must be a positive finite float32 number, got {self.scale!r}")
        if not self.spec.qmin <= self.zero_point <= self.spec.qmax:
            raise ValueError(
                f"zero_point must lie in [{self.spec.qmin}, {self.spec.qmax}], "
                f"got {self.zero_point}"
            )

    @classmethod
    def of(cls, qparams: QParams, spec: IntSpec) -> "ValueGrid":
        """Read the grid of a tensor with one scale.

        Args:
            qparams: scale and zero point, of one element each.
            spec: integer range of the codes.
        Returns:
            the same grid as numbers.
        Raises:
            ValueError: as the constructor.
        """
        scale, zero_point = qparams.scale.item(), qparams.zero_point.item()
        return cls(scale=scale, zero_point=int(zero_point), spec=spec)

    @property
    def low(self) -> int:
        """Smallest code, relative to the zero point."""
        return self.spec.qmin - self.zero_point

    @property
    def high(self) -> int:
        """Largest code, relative to the zero point."""
        return self.spec.qmax - self.zero_point

    @property
    def integers(self) -> Array:
        """int64 (2^bits,): all codes in ascending order, relative to the zero point."""
        return np.arange(self.low, self.high + 1)


class Output(NamedTuple):
    """The trained range of a result, and the scale and zero point that it is rounded with."""

    clip: Clip
    """A valid range: its ends receive gradients."""
    qparams: QParams
    """Those of the range, or with a scale that a conversion adjusted; without gradients."""


def output_of(clip: Clip, spec: ActivationSpec, scale: Adopted | None = None) -> Output:
    """Describe a result by its range.

    Args:
        clip: a valid range, scalars.
        spec: integer range of the codes, and symmetry.
        scale: an adjusted scale, used while the range has the natural one.
    Returns:
        the range with ulq.ulq_qparams, whose zero point is that of the natural scale.
    """
    natural, zero_point = ulq_qparams(clip, spec)
    return Output(clip, QParams(use_adopted(natural, scale), zero_point))


def use_adopted(natural: Tensor, adopted: Adopted | None) -> Tensor:
    """Return an adjusted number where the natural one is that of the conversion.

    Args:
        natural: float32, a scale, factor or multiplier.
        adopted: what a conversion adjusted; None for nothing.
    Returns:
        float32 of natural's shape.
    """
    if adopted is None:
        return natural
    return torch.where(natural == adopted.natural, adopted.adjusted, natural)
