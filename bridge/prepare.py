"""Replacing a model's layers by QAT operators in one call, and back."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

from rich.console import Console
from torch import nn

from bridge.modules import LAYER_CLASSES
from bridge.modules.base import QATLayer
from bridge.plan import QUANTIZE, plan_qat, plan_table
from bridge.rules import Config, Selector

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


def prepare_qat(
    model: nn.Module,
    config: Config | str | PathLike[str] | None = None,
    *,
    inplace: bool = False,
    include: Sequence[Selector] | None = None,
    skip: Sequence[Selector] = (),
    layers: Mapping[str, Config] | None = None,
    dry_run: bool = False,
) -> nn.Module:
    """Replace the supported layers of a model by QAT operators.

    Parameters stay the very same objects when inplace, and so do modes, devices and hooks.

    Args:
        model: any module.
        config: configuration of every layer, see bridge.config.read_config; or the path of a
            .json or .toml file with the keys default (a configuration), layers (pattern to
            configuration) and skip (patterns), see docs/config.schema.json.
        inplace: change model itself instead of a copy.
        include: patterns of paths ("layer1.*"), paths, or classes; only these are replaced.
        skip: patterns, paths or classes that stay as they are.
        layers: configurations by pattern, the first match wins over config.
        dry_run: change nothing and print the plan as a table.
    Returns:
        the prepared model; model itself for a dry run.
    Raises:
        TypeError, ValueError: a configuration is wrong, or a pattern matches nothing.
    """
    if dry_run:
        plans = plan_qat(model, config, include=include, skip=skip, layers=layers)
        Console().print(plan_table(plans))
        return model
    model = model if inplace else copy.deepcopy(model)
    plans = plan_qat(model, config, include=include, skip=skip, layers=layers)
    replaced: dict[int, nn.Module] = {}
    for plan in plans:
        if plan.action != QUANTIZE:
            continue
        layer = model.get_submodule(plan.path)
        if id(layer) not in replaced:
            replaced[id(layer)] = _to_qat(layer, plan.config)
    return _swap(model, replaced)


def float_model(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Put float layers back in the place of QAT operators.

    Args:
        model: any module.
        inplace: change model itself instead of a copy.
    Returns:
        the float model, with the weights as they are now.
    """
    model = model if inplace else copy.deepcopy(model)
    layers = [module for module in model.modules() if isinstance(module, QATLayer)]
    return _swap(model, {id(layer): _take_over(layer.to_float(), layer) for layer in layers})


def _to_qat(layer: nn.Module, config: Config) -> nn.Module:
    return _take_over(LAYER_CLASSES[type(layer)].from_float(layer, config), layer)


def _take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a replacement the hooks of what it replaces: the very dicts, so that handles work."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    return new


def _swap(model: nn.Module, replaced: Mapping[int, nn.Module]) -> nn.Module:
    """Put replacements, by id of the original, in every place where the originals stand."""
    if id(model) in replaced:
        return replaced[id(model)]
    for parent, name, child in _places(model):
        if id(child) in replaced:
            setattr(parent, name, replaced[id(child)])
    return model


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None:
                yield parent, name, child
