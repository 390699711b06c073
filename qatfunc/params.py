"""The tensors that quantization is described by: NamedTuples, hence pytrees to torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

Params = Mapping[str, Any]
"""The parameters of an operator by name, see qatfunc.operators."""


class QParams(NamedTuple):
    """What an integer q stands for: `(q - zero_point) * scale`.

    Both broadcast to the tensor they quantize: shape () or rank-0 for one scale a tensor,
    otherwise full rank with size 1 off the channel axis.
    """

    scale: Tensor
    """float32, positive."""
    zero_point: Tensor
    """float32, integer-valued, within the grid; zeros for a symmetric grid."""


class Clip(NamedTuple):
    """The range an activation is clipped to: trained float32 scalars, one pair a sample in vmap."""

    max: Tensor
    min: Tensor


class Adopted(NamedTuple):
    """A rescale to use instead of scale_x * scale_w, where that is still what it was.

    A conversion moves some of a layer's factors by a few ulps; holding both numbers lets the
    moved one go out of use by itself once training changes the scales.
    """

    natural: Tensor
    """float32 (out,) or (1,): scale_x * scale_w at the conversion."""
    moved: Tensor
    """float32, of the same shape."""
