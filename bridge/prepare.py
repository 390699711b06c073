"""Replacing a model's float layers by QAT layers, and back."""

import warnings
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from torch import nn

from bridge.arguments import check_flags, check_model
from bridge.config.rules import Config, Selectors
from bridge.modules.paths import remember_paths
from bridge.modules.ranges import RangedModule
from bridge.modules.state.inference import copied
from bridge.modules.weighted import QATLayer
from bridge.selection.carried import take_over
from bridge.selection.eligibility import qat_class_of
from bridge.selection.integer_share import integer_share
from bridge.selection.plan import QUANTIZE, plan_qat
from bridge.selection.superseded import float_originals, guard

__all__ = ["float_model", "prepare_qat"]


def prepare_qat(
    model: nn.Module,
    config: Config | str | PathLike[str] | None = None,
    *,
    inplace: bool = False,
    include: Selectors | None = None,
    skip: Selectors = (),
    layers: Mapping[str, Config] | None = None,
    example: Any = None,
) -> nn.Module:
    """Replace the supported layers of a model by QAT layers.

    The QAT layers keep the mode, device, hooks and added members of the float layers; with inplace
    they have the same Parameter objects. A warning is given if less than half of the
    multiply-accumulates (without example: of the weights), not counting skipped layers, will be in
    integers. If the model's code calls a replaced layer through a plain list, dict or the like,
    where the float layer remains, the call raises.

    Args:
        model: any module.
        config: configuration of every layer, see bridge.config.reader.read_config; or the path of a
            .json or .toml file with the keys default (a configuration), layers (pattern to
            configuration) and skip (patterns), see bridge/config/schema.json.
        inplace: change model itself instead of a copy.
        include: patterns of paths ("layer1.*"), paths, or classes; only these are replaced.
        skip: patterns, paths or classes that stay in float.
        layers: configurations by pattern; the first matching one overrides config.
        example: a batch as calibrate takes it, to count multiply-accumulates in one run.
    Returns:
        the prepared model; model itself if inplace, unless it is one layer that is replaced.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a configuration is wrong, or a pattern or class matches no module.
    """
    check_model(model, "prepare_qat")
    check_flags("prepare_qat", inplace=inplace)
    model = model if inplace else copied(model)
    plans = plan_qat(model, config, include=include, skip=skip, layers=layers)
    share = integer_share(model, plans, example)
    replaced: dict[int, nn.Module] = {}
    originals: dict[str, nn.Module] = {}
    for plan in plans:
        if plan.action != QUANTIZE:
            continue
        layer = model.get_submodule(plan.path)
        if id(layer) not in replaced:
            replaced[id(layer)] = _to_qat(layer, plan.config)
            originals[plan.path] = layer
    model = _swap(model, replaced)
    guard(model, originals)
    if share is not None:
        warnings.warn(share, stacklevel=2)
    remember_paths(model, RangedModule)
    return model


def float_model(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Replace the QAT layers of a model by float layers.

    Args:
        model: any module.
        inplace: change model itself instead of a copy.
    Returns:
        the float model, with the current weights.
    """
    check_model(model, "float_model")
    check_flags("float_model", inplace=inplace)
    model = model if inplace else copied(model)
    layers = [module for module in model.modules() if isinstance(module, QATLayer)]
    held = float_originals(model)
    return _swap(
        model,
        {
            id(layer): take_over(held.get(id(layer.weight)) or layer.to_float(), layer)
            for layer in layers
        },
    )


def _to_qat(layer: nn.Module, config: Config) -> nn.Module:
    return take_over(qat_class_of(layer).from_float(layer, config), layer)


def _swap(model: nn.Module, replaced: Mapping[int, nn.Module]) -> nn.Module:
    """Replace modules, given by their ids, under every name that they are registered with."""
    if id(model) in replaced:
        return replaced[id(model)]
    for parent, name, child in _registrations(model):
        if id(child) in replaced:
            setattr(parent, name, replaced[id(child)])
    return model


def _registrations(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None:
                yield parent, name, child
