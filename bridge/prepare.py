"""Replacing a model's layers by QAT operators in one call, and back."""

import copy
import fnmatch
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils import parametrize

from bridge.config import read_config
from bridge.modules import LAYER_CLASSES
from bridge.modules.base import QATLayer

Selector = str | type[nn.Module]
Config = Mapping[str, Any]

_QUANTIZE, _SKIP, _UNSUPPORTED = "quantized", "skipped", "unsupported"
_FILE_KEYS = {"$schema", "default", "layers", "skip"}

# Classes with weights that could be quantized but that no operator here replaces.
_WITHOUT_OPERATOR = (
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What prepare_qat does to one layer.

    Args:
        path: of the layer; shared layers appear under each of their paths.
        kind: class of the layer.
        action: "quantized", "skipped" or "unsupported".
        reason: the rule or the limit behind it.
        config: what a quantized layer is configured with.
    """

    path: str
    kind: str
    action: str
    reason: str
    config: Config = field(default_factory=dict)


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
        if plan.action != _QUANTIZE:
            continue
        layer = model.get_submodule(plan.path)
        if id(layer) not in replaced:
            replaced[id(layer)] = _to_qat(layer, plan.config)
    return _swap(model, replaced)


def plan_qat(
    model: nn.Module,
    config: Config | str | PathLike[str] | None = None,
    *,
    include: Sequence[Selector] | None = None,
    skip: Sequence[Selector] = (),
    layers: Mapping[str, Config] | None = None,
) -> tuple[LayerPlan, ...]:
    """Say what prepare_qat would do to each layer, and why, without doing it.

    Args:
        model: any module; it is left as it is.
        config: as prepare_qat's.
        include: as prepare_qat's.
        skip: as prepare_qat's.
        layers: as prepare_qat's.
    Returns:
        a plan for every layer that has an operator or could have one.
    Raises:
        TypeError, ValueError: as prepare_qat.
    """
    default, layers, skip = _rules(config, layers or {}, skip)
    _check_used(model, [*(include or ()), *skip, *layers])
    return tuple(
        _plan(model, path, module, default, include=include, skip=skip, layers=layers)
        for path, module in model.named_modules(remove_duplicate=False)
        if _is_candidate(module)
    )


def plan_table(plans: Sequence[LayerPlan]) -> Table:
    """Lay out a plan.

    Args:
        plans: from plan_qat.
    Returns:
        a table for rich.print.
    """
    quantized = sum(plan.action == _QUANTIZE for plan in plans)
    table = Table(title=f"{quantized} of {len(plans)} layers to be quantized")
    for column in ("layer", "class", "what happens", "why"):
        table.add_column(column)
    for plan in plans:
        table.add_row(plan.path, plan.kind, plan.action, plan.reason)
    return table


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


def _rules(
    config: Config | str | PathLike[str] | None,
    layers: Mapping[str, Config],
    skip: Sequence[Selector],
) -> tuple[Config | None, Mapping[str, Config], Sequence[Selector]]:
    if config is None or isinstance(config, Mapping):
        return config, layers, skip
    if not isinstance(config, str | PathLike):
        raise TypeError(f"config must be a dict or a path, got {type(config).__name__}")
    path = Path(config)
    text = path.read_text()
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict) or set(values) - _FILE_KEYS:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path} must have keys of {sorted(_FILE_KEYS)}, got {got}")
    named, patterns = values.get("layers", {}), values.get("skip", [])
    if not isinstance(named, dict):
        raise ValueError(f"{path}: layers must map patterns to configurations, got {named!r}")
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"{path}: skip must be a list of patterns, got {patterns!r}")
    return values.get("default"), {**named, **layers}, [*patterns, *skip]


def _plan(
    model: nn.Module,
    path: str,
    module: nn.Module,
    default: Config | None,
    *,
    include: Sequence[Selector] | None,
    skip: Sequence[Selector],
    layers: Mapping[str, Config],
) -> LayerPlan:
    def plan(action: str, reason: str, config: Config | None = None) -> LayerPlan:
        kind = type(module).__name__
        return LayerPlan(path=path, kind=kind, action=action, reason=reason, config=config or {})

    rule = next((s for s in skip if _matches(s, path, module)), None)
    if rule is not None:
        return plan(_SKIP, f"skip rule {_show(rule)}")
    if include is not None and not any(_matches(s, path, module) for s in include):
        return plan(_SKIP, "no include rule matches")
    if isinstance(module, QATLayer):
        return plan(_SKIP, "already quantized")
    refusal = _refusal(model, path, module)
    if refusal:
        return plan(_UNSUPPORTED, refusal)
    pattern = next((p for p in layers if _matches(p, path, module)), None)
    chosen = dict((layers[pattern] if pattern is not None else default) or {})
    reason = f"rule {pattern!r}" if pattern is not None else "default"
    qat_class = LAYER_CLASSES[type(module)]
    read = read_config(chosen, channel_wise=qat_class.operator.channel_wise)
    if not read.enabled:
        return plan(_SKIP, "retrain_enable is False")
    if read.weight.per_channel and not qat_class.operator.may_be_channel_wise:
        weight = {**(chosen.get("retrain_weight_config") or {}), "channel_wise": False}
        chosen["retrain_weight_config"] = weight
        reason += ", one weight scale (channel_wise is not for this class)"
    try:
        qat_class.operator.check_layer(module, per_channel=False)
    except (ValueError, RuntimeError) as error:
        return plan(_UNSUPPORTED, str(error))
    return plan(_QUANTIZE, reason, chosen)


def _refusal(model: nn.Module, path: str, module: nn.Module) -> str:
    """Return why a layer cannot be replaced, "" if it can."""
    if type(module) in LAYER_CLASSES:
        parent = model.get_submodule(path.rpartition(".")[0])
        if path and isinstance(parent, nn.TransformerEncoderLayer):
            return (
                "TransformerEncoderLayer reads this weight without calling the layer in eval mode"
            )
        dtype = module.weight.dtype
        return "" if dtype is torch.float32 else f"its weight is {dtype}, not torch.float32"
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    for float_class in LAYER_CLASSES:
        if isinstance(module, float_class):
            return f"subclass of {float_class.__name__}: its forward may compute something else"
    return f"no operator for {type(module).__name__}"


def _is_candidate(module: nn.Module) -> bool:
    return isinstance(module, (*LAYER_CLASSES, *_WITHOUT_OPERATOR, QATLayer))


def _matches(selector: Selector, path: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(path, selector)
    return isinstance(module, selector)


def _check_used(model: nn.Module, selectors: Sequence[Selector]) -> None:
    modules = list(model.named_modules(remove_duplicate=False))
    for selector in selectors:
        if not any(_matches(selector, path, module) for path, module in modules):
            raise ValueError(f"rule {_show(selector)} matches no module of the model")


def _show(selector: Selector) -> str:
    return repr(selector) if isinstance(selector, str) else selector.__name__


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
