"""NamedTuples of tensors that describe quantization; torch treats them as pytrees."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

Params = Mapping[str, Any]
"""The parameters of an operator by name, see qatfunc.operators."""


class QParams(NamedTuple):
    """Scale and zero point: an integer q represents `(q - zero_point) * scale`.

    Both broadcast to the quantized tensor: shape () for one scale per tensor, otherwise full rank
    with size 1 on every axis but that of the channels.
    """

    scale: Tensor
    """float32, positive."""
    zero_point: Tensor
    """float32, integer-valued, within the grid; zeros for a symmetric grid."""


class Clip(NamedTuple):
    """The range that an activation is clipped to: two trained float32 scalars."""

    max: Tensor
    min: Tensor


class Adopted(NamedTuple):
    """Rescale factors that a conversion adjusted, to be used instead of scale_x * scale_w.

    A conversion changes some factors of a layer by a few ulps, so that integer arithmetic gives
    the same codes. An adjusted factor is used while scale_x * scale_w equals the natural one, and
    no longer once training has changed the scales.
    """

    natural: Tensor
    """float32 (out,) or (1,): scale_x * scale_w at the conversion."""
    adjusted: Tensor
    """float32, of the same shape."""
