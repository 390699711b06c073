"""What prepare_qat does to each layer of a model, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike

from torch import nn

from bridge.arguments import check_model
from bridge.config.reader import read_config
from bridge.config.rules import Config, Rules, Selectors, check_used, matches, read_rules, show
from bridge.modules.weighted import QATLayer
from bridge.report.layout import Listing
from bridge.report.printed import PrintedRows
from bridge.selection.eligibility import (
    candidates,
    has_operator,
    qat_class_of,
    refusal,
    subclass_note,
)
from bridge.selection.products import advice, own_products
from bridge.selection.references import Reference, held_elsewhere

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


class QATPlan(PrintedRows[LayerPlan]):
    """What prepare_qat does to each layer, a tuple that prints itself."""

    __slots__ = ()

    def __rich__(self) -> Listing:
        """Return the table of plan_table."""
        return plan_table(self)


def plan_qat(
    model: nn.Module,
    config: Config | str | PathLike[str] | None = None,
    *,
    include: Selectors | None = None,
    skip: Selectors = (),
    layers: Mapping[str, Config] | None = None,
) -> QATPlan:
    """Say what prepare_qat would do to each layer, and why, without doing it.

    Args:
        model: any module; it is left as it is.
        config: as prepare_qat's.
        include: as prepare_qat's.
        skip: as prepare_qat's.
        layers: as prepare_qat's.
    Returns:
        a plan for every layer that has an operator or could have one, then for the modules whose
        own code multiplies and for layers that the model holds without registering them; print
        shows them as a table.
    Raises:
        TypeError, ValueError: as prepare_qat.
    """
    rules = read_rules(config, include=include, skip=skip, layers=layers)
    check_model(model, "plan_qat")
    check_used(model, [*(rules.include or ()), *rules.skip, *rules.layers])
    held = held_elsewhere(model)
    plans = [_plan(model, path, module, rules) for path, module in candidates(model)]
    plans = [_with_reference(model, plan, held) for plan in plans]
    return QATPlan(plans + _left_out(model, rules, held))


def plan_table(plans: Sequence[LayerPlan]) -> Listing:
    """Lay out a plan.

    Args:
        plans: from plan_qat.
    Returns:
        a listing for print or rich.print.
    """
    quantized = sum(plan.action == QUANTIZE for plan in plans)
    return Listing(
        title=f"{quantized} of {len(plans)} layers to be quantized",
        columns=["layer", "class", "what happens", "why"],
        rows=[[plan.path or "(the model)", plan.kind, plan.action, plan.reason] for plan in plans],
    )


def _plan(model: nn.Module, path: str, module: nn.Module, rules: Rules) -> LayerPlan:
    skipped = _by_rule(path, module, rules)
    if skipped is not None:
        return skipped
    if isinstance(module, QATLayer):
        return _made(path, module, SKIP, "already quantized")
    reason = refusal(model, path, module)
    if reason:
        return _made(path, module, UNSUPPORTED, reason)
    pattern = next((p for p in rules.layers if matches(p, path, module)), None)
    chosen = dict((rules.default if pattern is None else rules.layers[pattern]) or {})
    reason = "default" if pattern is None else f"rule {show(pattern)}"
    reason += subclass_note(module)
    operator = qat_class_of(module).operator
    read = read_config(chosen, channel_wise=operator.channel_wise)
    if not read.enabled:
        return _made(path, module, SKIP, "retrain_enable is False")
    if read.weight.per_channel and not operator.may_be_channel_wise:
        weight = {**(chosen.get("retrain_weight_config") or {}), "channel_wise": False}
        chosen["retrain_weight_config"] = weight
        reason += ", one weight scale (channel_wise is not for this class)"
    try:
        operator.check_layer(module, per_channel=False)
    except (ValueError, RuntimeError) as error:
        return _made(path, module, UNSUPPORTED, str(error))
    return replace(_made(path, module, QUANTIZE, reason), config=chosen)


def _made(path: str, module: nn.Module, action: str, reason: str) -> LayerPlan:
    return LayerPlan(path=path, kind=type(module).__name__, action=action, reason=reason)


def _by_rule(path: str, module: nn.Module, rules: Rules) -> LayerPlan | None:
    rule = next((s for s in rules.skip if matches(s, path, module)), None)
    if rule is not None:
        return _made(path, module, SKIP, f"skip rule {show(rule)}")
    included = rules.include is None or any(matches(s, path, module) for s in rules.include)
    return None if included else _made(path, module, SKIP, "no include rule matches")


def _with_reference(model: nn.Module, plan: LayerPlan, held: Mapping[int, Reference]) -> LayerPlan:
    """Say of a layer to be quantized where else the model holds it."""
    reference = held.get(id(model.get_submodule(plan.path)))
    if reference is None or plan.action != QUANTIZE:
        return plan
    where = f"{reference.where} ({reference.kind})"
    also = f"also held in {where}, where it stays in float: a call there raises"
    return replace(plan, reason=f"{plan.reason}; {also}")


def _left_out(model: nn.Module, rules: Rules, held: Mapping[int, Reference]) -> list[LayerPlan]:
    """Say what else multiplies: code of modules, and layers that are not registered."""
    planned = {id(module) for _, module in candidates(model)}
    plans = []
    for path, module in model.named_modules(remove_duplicate=False):
        products = [] if id(module) in planned else own_products(module)
        if products:
            left = _made(path, module, UNSUPPORTED, advice(module, products))
            plans.append(_by_rule(path, module, rules) or left)
    registered = {id(module) for module in model.modules()}
    for reference in held.values():
        if id(reference.module) not in registered and has_operator(reference.module):
            reason = f"held in {reference.kind}, so no part of the model to torch: register it"
            plans.append(_made(reference.where, reference.module, UNSUPPORTED, reason))
    return plans
