"""What prepare_qat does to each layer of a model, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

from rich.table import Table
from torch import nn

from bridge.config import read_config
from bridge.eligibility import is_candidate, refusal
from bridge.modules import LAYER_CLASSES
from bridge.modules.base import QATLayer
from bridge.rules import Config, Selector, check_used, matches, read_rules, show

QUANTIZE, SKIP, UNSUPPORTED = "quantized", "skipped", "unsupported"


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
    default, layers, skip = read_rules(config, layers or {}, skip)
    check_used(model, [*(include or ()), *skip, *layers])
    return tuple(
        _plan(model, path, module, default, include=include, skip=skip, layers=layers)
        for path, module in model.named_modules(remove_duplicate=False)
        if is_candidate(module)
    )


def plan_table(plans: Sequence[LayerPlan]) -> Table:
    """Lay out a plan.

    Args:
        plans: from plan_qat.
    Returns:
        a table for rich.print.
    """
    quantized = sum(plan.action == QUANTIZE for plan in plans)
    table = Table(title=f"{quantized} of {len(plans)} layers to be quantized")
    for column in ("layer", "class", "what happens", "why"):
        table.add_column(column)
    for plan in plans:
        table.add_row(plan.path, plan.kind, plan.action, plan.reason)
    return table


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

    rule = next((s for s in skip if matches(s, path, module)), None)
    if rule is not None:
        return plan(SKIP, f"skip rule {show(rule)}")
    if include is not None and not any(matches(s, path, module) for s in include):
        return plan(SKIP, "no include rule matches")
    if isinstance(module, QATLayer):
        return plan(SKIP, "already quantized")
    reason = refusal(model, path, module)
    if reason:
        return plan(UNSUPPORTED, reason)
    pattern = next((p for p in layers if matches(p, path, module)), None)
    chosen = dict((layers[pattern] if pattern is not None else default) or {})
    reason = f"rule {pattern!r}" if pattern is not None else "default"
    qat_class = LAYER_CLASSES[type(module)]
    read = read_config(chosen, channel_wise=qat_class.operator.channel_wise)
    if not read.enabled:
        return plan(SKIP, "retrain_enable is False")
    if read.weight.per_channel and not qat_class.operator.may_be_channel_wise:
        weight = {**(chosen.get("retrain_weight_config") or {}), "channel_wise": False}
        chosen["retrain_weight_config"] = weight
        reason += ", one weight scale (channel_wise is not for this class)"
    try:
        qat_class.operator.check_layer(module, per_channel=False)
    except (ValueError, RuntimeError) as error:
        return plan(UNSUPPORTED, str(error))
    return plan(QUANTIZE, reason, chosen)
