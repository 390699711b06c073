"""Effective weight, bias and input: those that a layer's class computes before the operator."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from bridge.layer_classes.rule import LayerRule
from bridge.modules.from_float.subclass import Members, with_tensors
from bridge.modules.ranges import RangedModule


class EffectiveLayer(RangedModule):
    """A layer whose operator takes its parameters, or tensors that a rule computes from them.

    `_rule` is None in the QAT layers of torch's own classes; qat_subclass sets it in others.
    """

    _origin: ClassVar[type[nn.Module] | None] = None
    _qat_class: ClassVar[type[nn.Module] | None] = None
    _rule: ClassVar[LayerRule | None] = None
    _members: Members | None = None

    def quantized_inputs(self, *arguments: Any) -> tuple[Any, ...]:
        """Return the tensor that a forward quantizes.

        Args:
            arguments: of forward.
        Returns:
            a tuple of one tensor, the first argument or what the rule computes from it.
        """
        rule, x = self._rule, arguments[0]
        return (x if rule is None or rule.input is None else rule.input(self, x),)

    def _effective_weight(self) -> Tensor:
        if self._rule is None or self._rule.weight is None:
            weight: Tensor = self._parameter("weight")
            return weight
        return self._rule.weight(self)

    def _effective_bias(self) -> Tensor | None:
        if self._rule is None or self._rule.bias is None:
            bias: Tensor | None = self._parameter("bias")
            return bias
        return self._rule.bias(self)

    def _whole_weight(self) -> Tensor:
        """Return the effective weight, gathered from all ranks where fully_shard divides it."""
        if self._rule is None or self._rule.weight is None:
            weight: Any = self.weight
            return weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        parts: dict[str, Any] = {
            name: part for name, part in self._parameters.items() if hasattr(part, "full_tensor")
        }
        if not parts:
            return self._rule.weight(self)
        whole = {name: part.full_tensor() for name, part in parts.items()}
        return self._rule.weight(with_tensors(self, whole))

    def _computed_parameters(
        self, real: Mapping[str, Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the effective weight and bias, None for one that is a parameter.

        Args:
            real: the parameters and buffers to compute them from, by name.
        """
        rule = self._rule
        if rule is None or not rule.computes_parameters:
            return None, None
        layer = with_tensors(self, real)
        weight = None if rule.weight is None else rule.weight(layer).contiguous()
        return weight, None if rule.bias is None else rule.bias(layer)

    def _float_forward(self, *arguments: Any) -> Any:
        """Run the float layer's forward."""
        if self._origin is not None:
            return self._origin.forward(self, *arguments)
        return super().forward(*arguments)

    @classmethod
    def _is_exported(cls, name: str) -> bool:
        computed = cls._rule is not None and cls._rule.computes_parameters
        return computed or super()._is_exported(name)
