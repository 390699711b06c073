"""A rule: a layer class as one of torch's operators on a padded input and a computed weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]

Pads = Sequence[tuple[int, int]]
"""Numbers of zeros (before, after) for each spatial axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRule:
    """What the instances of a class compute, those whose `refusal` is "".

        y = operator(pad(input(x), padding(x.shape)), weight(), bias())

    Args:
        base: torch's class with the same operator.
        input: (layer, x) -> float32 input to quantize; None means x.
        padding: (layer, shape of x) -> zeros to add to the layer's own padding; None means none.
        weight: (layer) -> float32 weight in base's layout; None means layer.weight.
        bias: (layer) -> float32 bias; None means layer.bias.
        refusal: (layer) -> the reason why an instance does not follow the rule, "" if it does.
        registered: False for torch's own classes.
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
        """Whether weight or bias is computed, not a parameter of the layer."""
        return self.weight is not None or self.bias is not None
