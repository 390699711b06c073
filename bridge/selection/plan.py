"""Which layers of a model prepare_qat quantizes, and why it leaves the others in float."""

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
    """Whether prepare_qat quantizes one layer, and why.

    Args:
        path: of the layer; a shared layer appears once with each of its paths.
        kind: name of the layer's class.
        action: "quantized", "skipped" or "unsupported".
        reason: the rule or the limitation that decides it.
        config: configuration of the layer, if it is quantized.
    """

    path: str
    kind: str
    action: str
    reason: str
    config: Config = field(default_factory=dict)


class QATPlan(PrintedRows[LayerPlan]):
    """The plan of prepare_qat: a tuple of one LayerPlan for each layer."""

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
    """Return which layers prepare_qat would quantize, and why not the others.

    Args:
        model: any module; not modified.
        config: as prepare_qat's.
        include: as prepare_qat's.
        skip: as prepare_qat's.
        layers: as prepare_qat's.
    Returns:
        a plan for every layer with weights; then for modules whose own code computes matrix
        products, and for layers that the model holds without registering them. print shows a
        table.
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
    """Return a plan as a table.

    Args:
        plans: from plan_qat.
    Returns:
        the table, for print or rich.print.
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
        reason += ", per-tensor weight scale (this class does not support channel_wise)"
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
    """Add to the reason of a quantized layer where else the model holds it."""
    reference = held.get(id(model.get_submodule(plan.path)))
    if reference is None or plan.action != QUANTIZE:
        return plan
    where = f"{reference.where} ({reference.kind})"
    also = f"also held in {where}, where it stays in float: a call there raises"
    return replace(plan, reason=f"{plan.reason}; {also}")


def _left_out(model: nn.Module, rules: Rules, held: Mapping[int, Reference]) -> list[LayerPlan]:
    """Return plans for matrix products in modules' code, and for layers that are not registered."""
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
            reason = f"held in {reference.kind}, so it is not a submodule: register it"
            plans.append(_made(reference.where, reference.module, UNSUPPORTED, reason))
    return plans
