"""QAT layers built on the Parameter objects of float layers, and float layers built back."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from bridge.layer_classes.registry import layer_rule
from bridge.layer_classes.rule import LayerRule
from bridge.modules.from_float.effective import EffectiveLayer
from bridge.modules.from_float.subclass import become, float_layer, obstacle
from bridge.operators import Operator


class ReplacingLayer(EffectiveLayer):
    """A layer that can be built from a float layer, and converted back to one."""

    arguments: ClassVar[tuple[str, ...]]
    """Arguments of the float class's constructor, without bias, device and dtype."""

    input_size: ClassVar[str] = "in_channels"
    """Name of the argument that is the input's number of channels or features."""

    operator: ClassVar[Operator]
    weight: Tensor
    bias: Tensor | None
    wts_scales: Tensor

    @classmethod
    def from_float(cls, mod: nn.Module, config: Mapping[str, Any] | None = None) -> Self:
        """Build the layer from a float layer, with its parameters, device and mode.

        Args:
            mod: a module of the float class, of a subclass that computes the same, or of a class
                that is registered (bridge.register_layer).
            config: the configuration dict, see bridge.config.reader.read_config.
        Returns:
            the layer; its weight and bias are the same Parameter objects as mod's.
        Raises:
            TypeError, RuntimeError: mod is of another class (operator.from_float_error), or the
                constructor raises it.
            ValueError: mod cannot be replaced, or the constructor raises it.
        """
        rule = layer_rule(mod)
        if isinstance(rule, str) or rule.base is not cls.operator.float_class:
            float_class = cls.operator.float_class
            derived = isinstance(mod, float_class) and not isinstance(mod, ReplacingLayer)
            raise cls.operator.from_float_error(
                f"{cls.__name__}.from_float takes a {float_class.__name__}, "
                f"got {type(mod).__name__}" + (f", a {rule}" if derived else "")
            )
        reason = cls.obstacle(mod, rule)
        if reason:
            raise ValueError(f"{cls.__name__}.from_float: {type(mod).__name__}: {reason}")
        layer: Any = cls._empty(mod, rule)
        if type(mod) is cls.operator.float_class:
            layer.weight, layer.bias = mod.weight, mod.bias
        else:
            become(layer, mod, origin=type(mod), rule=rule)
        layer._init_quantization(config)
        layer._in_mode(mod.training)
        return layer

    @classmethod
    def obstacle(cls, mod: nn.Module, rule: LayerRule) -> str:
        """Return the reason why this class cannot replace a layer of its operator.

        Args:
            mod: the float layer.
            rule: the rule that states what mod computes.
        Returns:
            the reason, "" if this class can replace it.
        """
        if type(mod) is cls.operator.float_class:
            return ""
        missing = [n for n in cls.arguments if n not in cls._sizes(mod, rule)]
        if missing:
            return f"it has no {', '.join(missing)}, which a {rule.base.__name__} has"
        try:
            qat = cls._empty(mod, rule)
        except (ValueError, RuntimeError) as error:  # the constructor refuses the arguments
            return str(error)
        plain = rule.base(bias=False, device="meta", **cls._sizes(mod, rule))
        return obstacle(mod, rule, plain=plain, qat=qat)

    @classmethod
    def _sizes(cls, mod: nn.Module, rule: LayerRule | None) -> dict[str, Any]:  # noqa: ARG003
        """Return the constructor's arguments that a layer has as attributes."""
        return {name: getattr(mod, name) for name in cls.arguments if hasattr(mod, name)}

    @classmethod
    def _empty(cls, mod: nn.Module, rule: LayerRule | None) -> Self:
        """Build a layer of a module's sizes on the meta device.

        Its parameters are replaced afterwards: meta tensors need no memory and no random numbers.
        """
        bias = getattr(mod, "bias", None) is not None
        return cls(bias=bias, device="meta", config=None, **cls._sizes(mod, rule))

    def _in_mode(self, training: bool) -> None:
        """Set the mode, but not of submodules, which belong to the float layer."""
        self.training = training
        if not training:
            self._refresh()

    def share(self) -> Self:
        """Return a layer that shares this layer's parameters but has an input range of its own.

        For a layer that is called twice with inputs of different ranges: one weight with one
        scale, and an input range for each call.

        Returns:
            an uncalibrated layer with the same Parameter objects for weight, bias and trained
            weight scale.
        """
        qat_class: Any = self._qat_class or type(self)
        twin: Any = qat_class._empty(self, self._rule)
        if self._origin is None or self._rule is None:
            twin.weight, twin.bias = self.weight, self.bias
        else:
            become(twin, self, origin=self._origin, rule=self._rule)
        twin._init_scales(self.config)
        if self.config.learned_scale:
            twin.wts_scales = self.wts_scales
            twin._hold_previous(self.wts_scales_pre)
        twin._in_mode(self.training)
        return twin

    def to_float(self) -> nn.Module:
        """Return a float layer with this layer's Parameter objects, device and mode."""
        if self._origin is not None:
            return float_layer(self)
        kwargs = {name: getattr(self, name) for name in self.arguments}
        layer = self.operator.float_class(bias=self.bias is not None, device="meta", **kwargs)
        layer.weight, layer.bias = self.weight, self.bias  # type: ignore[assignment]
        return layer.train(self.training)
