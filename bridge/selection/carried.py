"""Hooks, attributes, buffers and children that were added to a layer instance."""

from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

from torch import nn

from bridge.layer_classes.registry import layer_rule
from bridge.modules import LAYER_CLASSES
from bridge.modules.weighted import QATLayer

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_TABLES = ("_parameters", "_buffers", "_modules")
# A QAT layer's own attributes and buffers that its constructor does not create.
_OPTIONAL = frozenset(
    {
        "frozen_wts_scales",
        "adopted_natural",
        "adopted_rescale",
        "calibration_group",
        "observes",
        "_members",
        "_path_in_model",
    }
)

_NAMES: dict[type[nn.Module], frozenset[str]] = {}


def take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a replacement the hooks and added members of the layer that it replaces.

    The layers share the same hook dicts, so that removal handles still work. Attributes, buffers,
    parameters and children that the old layer's class does not define keep their names.

    Args:
        new: the replacement, a float layer or a QAT layer; modified in place.
        old: the layer that it replaces.
    Returns:
        new.
    """
    for name in (*_HOOKS, *_STATE_HOOKS):
        setattr(new, name, getattr(old, name))
    _rebind_state_hooks(new)
    for name, value in _extra_attributes(old):
        bound = isinstance(value, MethodType) and value.__self__ is old
        new.__dict__[name] = MethodType(value.__func__, new) if bound else value
    for table in _TABLES:
        getattr(new, table).update(_extra(old, table))
    extra = set(_extra(old, "_buffers")) & old._non_persistent_buffers_set
    new._non_persistent_buffers_set |= extra
    return new


def conflicts(layer: nn.Module, qat_class: type[QATLayer]) -> list[str]:
    """Return the names of a float layer's added members that a QAT layer defines itself.

    Args:
        layer: of a class that qat_class replaces.
        qat_class: the class of the replacement.
    Returns:
        names of attributes, buffers, parameters and children.
    """
    names = [name for name, _ in _extra_attributes(layer)]
    for table in _TABLES:
        names += _extra(layer, table)
    return [name for name in names if name in _own(qat_class) or hasattr(qat_class, name)]


def _extra_attributes(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    own = _own(_plain_class(layer))
    return ((name, value) for name, value in vars(layer).items() if name not in own)


def _extra(layer: nn.Module, table: str) -> dict[str, Any]:
    own = _own(_plain_class(layer))
    values: Mapping[str, Any] = getattr(layer, table)
    return {name: value for name, value in values.items() if name not in own}


def _plain_class(layer: nn.Module) -> type[nn.Module]:
    known = (*LAYER_CLASSES.values(), *LAYER_CLASSES)
    kind = next((kind for kind in known if isinstance(layer, kind)), None)
    rule = layer_rule(layer)
    return rule.base if kind is None and not isinstance(rule, str) else kind or type(layer)


def _own(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names of all members that the constructor of a class creates."""
    if kind not in _NAMES:
        _NAMES[kind] = _names(kind)
    return _NAMES[kind]


def _names(kind: type[nn.Module]) -> frozenset[str]:
    linear = issubclass(kind, nn.Linear)
    layer = kind(1, 1, device="meta") if linear else kind(1, 1, 1, device="meta")
    optional = _OPTIONAL if isinstance(layer, QATLayer) else frozenset()
    tables = (name for table in _TABLES for name in getattr(layer, table))
    return frozenset({*vars(layer), *tables, *optional, "_compiled_call_impl", "parametrizations"})


def _rebind_state_hooks(layer: nn.Module) -> None:
    """Bind load_state_dict pre-hooks that take their module to the replacement."""
    hooks: dict[Any, Any] = layer._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        if getattr(hook, "with_module", False):
            hooks[key] = type(hook)(hook.hook, layer)
