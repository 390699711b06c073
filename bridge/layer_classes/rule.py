"""How a class computes one of torch's layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]

Pads = Sequence[tuple[int, int]]
"""Zeros (before, after) each spatial axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRule:
    """How a class computes one of torch's layers, for instances whose `refusal` is "".

        y = operator(pad(input(x), padding(x.shape)), weight(), bias())

    Args:
        base: class of torch whose operator it is.
        input: (layer, x) -> float32 input; None for x.
        padding: (layer, shape of x) -> zeros beside the layer's own padding; None for none.
        weight: (layer) -> weight in base's layout; None for layer.weight.
        bias: (layer) -> bias; None for layer.bias.
        refusal: (layer) -> why an instance is computed otherwise, "" if it is not.
        registered: False for what torch's own forward computes.
    """

    base: type[nn.Module]
    input: Callable[[Any, Tensor], Tensor] | None = None
    padding: Callable[[Any, Shape], Pads | None] | None = None
    weight: Callable[[Any], Tensor] | None = None
    bias: Callable[[Any], Tensor | None] | None = None
    refusal: Callable[[Any], str] | None = None
    registered: bool = True

    @property
    def computes_parameters(self) -> bool:
        """Whether weight or bias are computed from the layer's parameters."""
        return self.weight is not None or self.bias is not None
