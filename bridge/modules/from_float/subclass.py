"""QAT layers for other classes than torch's own: classes derived from the QAT and the float class.

ScaledStdConv2dQAT(Conv2dQAT, ScaledStdConv2d): attributes, parameters (gain), buffers,
submodules and methods are the original's; forward is the QAT layer's, on effective weights
"""

import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bridge.layer_classes.registry import class_rule
from bridge.layer_classes.rule import LayerRule

_MODULE_STATE = frozenset(vars(nn.Module()))

_classes: dict[tuple[Any, Any, LayerRule], type[nn.Module]] = {}
"""Classes that qat_subclass created, by its arguments: equal arguments return the same class."""


class Members(NamedTuple):
    """The names of a float layer's own members."""

    attributes: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]


def members_of(layer: nn.Module) -> Members:
    """Return the names of a float layer's own attributes, parameters, buffers and submodules.

    Args:
        layer: a float layer.
    Returns:
        the names, in the order of their definition.
    """
    return Members(
        attributes=tuple(name for name in vars(layer) if name not in _MODULE_STATE),
        parameters=tuple(layer._parameters),
        buffers=tuple(layer._buffers),
        modules=tuple(layer._modules),
    )


def copy_members(source: nn.Module, target: nn.Module, members: Members) -> None:
    """Set members of a layer to those of another one, without copying tensors.

    Args:
        source: the layer that has the members.
        target: the layer to change; its other members stay.
        members: the names.
    """
    for name in members.attributes:
        vars(target)[name] = vars(source)[name]
    for name in members.parameters:
        target.register_parameter(name, source._parameters[name])
    for name in members.buffers:
        persistent = name not in source._non_persistent_buffers_set
        target.register_buffer(name, source._buffers[name], persistent=persistent)
    for name in members.modules:
        target.add_module(name, source._modules[name])


def obstacle(layer: nn.Module, rule: LayerRule, *, plain: nn.Module, qat: nn.Module) -> str:
    """Return the reason why a QAT layer cannot replace a float layer, "" if it can.

    Args:
        layer: the float layer.
        rule: the rule that states what it computes.
        plain: torch's layer of the same sizes, on the meta device.
        qat: the QAT layer of the same sizes, on the meta device.
    """
    try:
        qat_subclass(type(qat), type(layer), rule)
    except TypeError as error:
        return f"no class can be derived from {type(layer).__name__}: {error}"
    names: set[str] = set().union(*members_of(layer))
    for parent in type(layer).__mro__:
        if parent in (rule.base, nn.Module):
            break
        names |= {name for name in vars(parent) if not name.startswith("__")}
    taken = sorted(names & (set(dir(qat)) - set(dir(plain))))
    if taken:
        return f"its {', '.join(taken)} would hide the QAT layer's own: rename"
    if rule.computes_parameters and any(_tensors(child) for child in layer.children()):
        return "its computed weight may depend on parameters of a submodule, not only on its own"
    with torch.no_grad():
        weight = layer.weight if rule.weight is None else rule.weight(layer)
        bias = None if rule.bias is None else rule.bias(layer)
    wanted: Any = plain.weight
    outputs: Any = getattr(plain, "out_channels", None) or plain.out_features
    return _mismatch("weight", weight, tuple(wanted.shape)) or (
        "" if bias is None else _mismatch("bias", bias, (outputs,))
    )


def become(qat: Any, layer: nn.Module, *, origin: type[nn.Module], rule: LayerRule) -> None:
    """Give an empty QAT layer the class and the members that replace a layer, in place.

    Args:
        qat: an instance of a class of bridge.modules, on the meta device.
        layer: the float layer, or a QAT layer that replaced it.
        origin: the float layer's class.
        rule: the rule that states what origin computes.
    """
    qat.__class__ = qat_subclass(type(qat), origin, rule)
    qat._members = getattr(layer, "_members", None) or members_of(layer)
    copy_members(layer, qat, qat._members)


def float_layer(qat: Any) -> nn.Module:
    """Return a layer of the original class with a QAT layer's members.

    Args:
        qat: a layer that `become` changed.
    """
    layer: nn.Module = qat._origin.__new__(qat._origin)
    nn.Module.__init__(layer)
    copy_members(qat, layer, qat._members)
    layer.training = qat.training
    return layer


def hold_parameters(qat: Any) -> None:
    """Replace a layer's parameters by its effective weight and bias, in place.

    Args:
        qat: a QAT layer; its output stays the same. Layers without computed weights are unchanged.
    """
    if qat._rule is None or not qat._rule.computes_parameters:
        return
    with torch.no_grad():
        weight, bias = qat._effective_weight(), qat._effective_bias()
    qat.__class__ = qat_subclass(
        qat._qat_class, qat._origin, replace(qat._rule, weight=None, bias=None)
    )
    qat.weight = nn.Parameter(weight.clone())
    qat.bias = None if bias is None else nn.Parameter(bias.clone())


def with_tensors(layer: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """Return a shallow copy of a layer with other parameters and buffers.

    Args:
        layer: any layer; not modified.
        tensors: replacements by name; other tensors are shared.
    """
    copied = type(layer).__new__(type(layer))
    vars(copied).update(vars(layer))
    for table in ("_parameters", "_buffers"):
        held = vars(layer)[table]
        vars(copied)[table] = {name: tensors.get(name, value) for name, value in held.items()}
    return copied


def qat_subclass(
    qat_class: type[nn.Module], origin: type[nn.Module], rule: LayerRule
) -> type[nn.Module]:
    """Return the class of the QAT layers that replace the layers of a float class.

    Args:
        qat_class: the QAT class of the operator, such as Conv2dQAT.
        origin: the float class.
        rule: the rule that states what origin computes.
    """
    made = _classes.get((qat_class, origin, rule))
    if made is not None:
        return made
    members = {
        "__module__": origin.__module__,
        "__doc__": f"{origin.__name__} with quantized weight and input.",
        "__repr__": nn.Module.__repr__,
        "__reduce_ex__": _reduce,
        "_qat_class": qat_class,
        "_origin": origin,
        "_rule": rule,
    }
    name = f"{origin.__name__}QAT"
    made = types.new_class(name, (qat_class, origin), exec_body=lambda body: body.update(members))
    _classes[qat_class, origin, rule] = made
    return made


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Pickle a layer by the two bases of its class: no module holds the class itself."""
    reduced: Any = object.__reduce_ex__(self, protocol)
    _, _, *state = reduced
    return _rebuild, (self._qat_class, self._origin), *state


def _rebuild(qat_class: type[nn.Module], origin: type[nn.Module]) -> nn.Module:
    rule = class_rule(origin)
    if isinstance(rule, str):
        raise TypeError(f"cannot load a quantized {origin.__name__}: {rule}")
    cls = qat_subclass(qat_class, origin, rule)
    return cls.__new__(cls)


def _mismatch(name: str, value: Any, shape: tuple[int, ...]) -> str:
    if not isinstance(value, Tensor):
        return f"its effective {name} must be a tensor, got {type(value).__name__}"
    if tuple(value.shape) != shape:
        return f"its effective {name} must have shape {shape}, got {tuple(value.shape)}"
    if value.dtype is not torch.float32:
        return f"its effective {name} must be torch.float32, got {value.dtype}"
    return ""


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
