"""The rule of a layer: of torch's class, of an unchanged subclass, or a registered one."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from bridge.layer_classes.known import KNOWN
from bridge.layer_classes.rule import LayerRule, Pads, Shape
from bridge.operators import (
    CONV1D,
    CONV2D,
    CONV3D,
    CONV_TRANSPOSE1D,
    CONV_TRANSPOSE2D,
    LINEAR,
)

_BASES: dict[type[nn.Module], LayerRule] = {
    operator.float_class: LayerRule(base=operator.float_class, registered=False)
    for operator in (CONV1D, CONV2D, CONV3D, CONV_TRANSPOSE1D, CONV_TRANSPOSE2D, LINEAR)
}
# A subclass that overrides none of these computes what its parent does.
_DECISIVE = (
    *("forward", "_conv_forward", "_output_padding", "weight", "bias"),
    *("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__"),
    *("stride", "padding", "dilation", "groups", "output_padding", "kernel_size", "padding_mode"),
)

_registered: dict[type[nn.Module] | str, LayerRule] = {}


def register_layer(
    cls: type[nn.Module] | str,
    *,
    base: type[nn.Module] | None = None,
    input: Callable[[Any, Tensor], Tensor] | None = None,  # noqa: A002
    padding: Callable[[Any, Shape], Pads | None] | None = None,
    weight: Callable[[Any], Tensor] | None = None,
    bias: Callable[[Any], Tensor | None] | None = None,
    refusal: Callable[[Any], str] | None = None,
) -> None:
    """State what a class of layers computes, so that prepare_qat can replace its instances.

        y = operator(pad(input(x), padding(x.shape)), weight(), bias())

    The operator is base's, with the layer's own stride, padding, dilation and groups. A function
    that is left out means what base does. Every function is called with the layer, later with the
    QAT layer that replaces it, which has the attributes, parameters, buffers, submodules and
    methods of cls. The rule holds for subclasses of cls too, unless they override forward.

    Args:
        cls: the class, or its name "package.module.Class", which need not be imported.
        base: nn.Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d or Linear; required if
            cls is a name, or not derived from one of these.
        input: (layer, x) -> the tensor to quantize, float32; for example a cast of x.
        padding: (layer, shape of x) -> (before, after) for each spatial axis: zeros to add to the
            layer's own padding; None for no zeros.
        weight: (layer) -> the effective weight to quantize, float32 in base's layout; computed by
            differentiable operators from the layer's own parameters and buffers.
        bias: (layer) -> the effective bias, computed as weight is.
        refusal: (layer) -> the reason why an instance does not follow the rule, "" if it does.
    Raises:
        TypeError: cls is neither a class of modules nor a qualified name, base is not one of the
            six classes, or a function is not callable.

    >>> import torch, bridge
    >>> class Centred(nn.Linear):
    ...     def forward(self, x):
    ...         return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)
    >>> bridge.register_layer(Centred, weight=lambda layer: layer.weight - layer.weight.mean())
    >>> bridge.plan_qat(nn.Sequential(Centred(2, 2)))[0].action
    'quantized'
    """
    named = isinstance(cls, str) and "." in cls
    if not named and not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f'cls must be a class of modules or "package.module.Class", got {cls!r}')
    if cls in _BASES:
        raise TypeError(f"{cls!r} is torch's own: register a class derived from it")
    if base is None and isinstance(cls, type):
        base = next((known for known in cls.__mro__ if known in _BASES), None)
    if base not in _BASES or base is None:
        names = ", ".join(known.__name__ for known in _BASES)
        raise TypeError(f"base of {cls!r} must be a class of torch.nn: {names}; got {base!r}")
    rule = LayerRule(
        base=base, input=input, padding=padding, weight=weight, bias=bias, refusal=refusal
    )
    for name in ("input", "padding", "weight", "bias", "refusal"):
        value = getattr(rule, name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function or None, got {value!r}")
    _registered[cls] = rule


def layer_rule(layer: nn.Module) -> LayerRule | str:
    """Return the rule that states what a layer computes.

    Args:
        layer: any module.
    Returns:
        the rule; without one, a message that says why and what to do.
    """
    cls = type(layer)
    rule = class_rule(cls)
    if isinstance(rule, str) or cls in _BASES:
        return rule
    refusal = rule.refusal(layer) if rule.refusal is not None else ""
    return refusal or rule


def class_rule(cls: type[nn.Module]) -> LayerRule | str:
    """Return the rule that states what the layers of a class compute.

    Args:
        cls: any class of modules.
    Returns:
        the rule of cls, or of a parent whose computation cls does not override; without one, a
        message that says why and what to do.
    """
    for parent in cls.__mro__:
        rule = _BASES.get(parent) or _rule_registered_for(parent)
        if rule is not None:
            changes = [n for n in _DECISIVE if _defined(cls, n) is not _defined(parent, n)]
            return _overridden(cls, parent, changes) if changes else rule
        if not issubclass(cls, tuple(_BASES)):
            continue
        if parent.__module__.startswith("torch.") and parent is not NonDynamicallyQuantizableLinear:
            return f"{parent.__qualname__} is a class of torch that computes something else"
    return f"no operator for {cls.__name__}"


def is_registered(cls: type[nn.Module]) -> bool:
    """Return whether a class or one of its parents is registered.

    Args:
        cls: any class of modules.
    Returns:
        True if register_layer was called for it, or `known` lists it.
    """
    return any(_rule_registered_for(parent) is not None for parent in cls.__mro__)


def _rule_registered_for(cls: type) -> LayerRule | None:
    name = f"{cls.__module__}.{cls.__qualname__}"
    return _registered.get(cls) or _registered.get(name) or KNOWN.get(name)


def _defined(cls: type, name: str) -> Any:
    return inspect.getattr_static(cls, name, None)


def _overridden(cls: type, parent: type, changes: list[str]) -> str:
    return (
        f"subclass of {parent.__name__} with its own {', '.join(changes)}: state what it computes "
        f"by bridge.register_layer({cls.__name__}, ...)"
    )
