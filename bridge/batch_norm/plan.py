"""Which BatchNorms of a model fold_batch_norm folds, and why it leaves the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils import parametrize

from bridge.arguments import check_model
from bridge.batch_norm.pairs import FOLDABLE, Calls, observed_calls, traced_calls
from bridge.batch_norm.rules import refusal_of_class
from bridge.layer_classes.registry import layer_rule
from bridge.modules import LAYER_CLASSES
from bridge.modules.weighted import QATLayer
from bridge.report.layout import Listing
from bridge.report.printed import PrintedRows
from bridge.selection.eligibility import computed, patched
from bridge.selection.references import Reference, held_elsewhere
from qatfunc.numerics.torch_internals import BatchNorm

FOLD, LEAVE = "folded", "left"

_CHANGING_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormPlan:
    """Whether fold_batch_norm folds one BatchNorm, and why not.

    Args:
        path: of the BatchNorm.
        kind: name of its class.
        layer: path of the layer that it is folded into, "" if there is none.
        action: "folded" or "left".
        reason: why it is left, "" if it is folded.
    """

    path: str
    kind: str
    layer: str
    action: str
    reason: str


class BatchNormPlan(PrintedRows[NormPlan]):
    """The plan of fold_batch_norm: a tuple of one NormPlan for each BatchNorm."""

    __slots__ = ()

    rows_name: ClassVar[str] = "norms"

    def __rich__(self) -> Listing:
        """Return a table with a row for each BatchNorm."""
        folded = sum(norm.action == FOLD for norm in self)
        return Listing(
            title=f"{folded} of {len(self)} BatchNorms to be folded",
            columns=["BatchNorm", "class", "what happens", "into layer", "why"],
            rows=[[norm.path, norm.kind, norm.action, norm.layer, norm.reason] for norm in self],
        )


def plan_batch_norm(model: nn.Module, *, example: Any = None) -> BatchNormPlan:
    """Return which BatchNorms fold_batch_norm would fold, and why not the others.

    Args:
        model: any module; not modified.
        example: a batch as calibrate takes it: pairs are found in one run on it in eval mode.
            Without it they are found in a symbolic trace.
    Returns:
        a plan for every BatchNorm; print shows them as a table.
    Raises:
        ValueError: the model cannot be traced and example is left out.
    """
    check_model(model, "plan_batch_norm")
    norms = {p: m for p, m in model.named_modules() if isinstance(m, BatchNorm)}
    if not norms:
        return BatchNormPlan()
    calls = traced_calls(model) if example is None else observed_calls(model, example)
    held = held_elsewhere(model)
    plans = []
    for path, norm in norms.items():
        layer, reason = calls.layer_before(path)
        reason = reason or refusal(model, layer, path, held=held)
        if not reason:
            reason = _rank(model.get_submodule(layer), layer, calls)
        action, layer = (LEAVE, "") if reason else (FOLD, layer)
        kind = type(norm).__name__
        plan = NormPlan(path=path, kind=kind, layer=layer, action=action, reason=reason)
        plans.append(plan)
    return BatchNormPlan(plans)


def refusal(
    model: nn.Module, layer_path: str, norm_path: str, *, held: Mapping[int, Reference]
) -> str:
    """Return the reason why a BatchNorm cannot be folded into a layer that it follows.

    Args:
        model: the model that contains both.
        layer_path: path of the layer.
        norm_path: path of the BatchNorm.
        held: modules that the model holds outside of its registered children (held_elsewhere).
    Returns:
        the reason, "" for a pair that can be folded.
    """
    layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
    if not isinstance(layer, FOLDABLE) or not isinstance(norm, BatchNorm):
        return (
            f"{layer_path} and {norm_path} must be a convolution or linear layer and a BatchNorm, "
            f"got {type(layer).__name__} and {type(norm).__name__}"
        )
    reason = _norm_refusal(norm, held)
    if reason:
        return f"{norm_path}: {reason}"
    reason = _layer_refusal(model, layer)
    return f"{layer_path}: {reason}" if reason else _sizes(layer, norm, layer_path, norm_path)


def _norm_refusal(norm: nn.Module, held: Mapping[int, Reference]) -> str:
    reason = refusal_of_class(norm) or patched(norm) or _hooks(norm, *_CHANGING_HOOKS)
    if reason:
        return reason
    if parametrize.is_parametrized(norm):
        return "its parameters are parametrized"
    if norm.running_var is None or norm.weight is None:
        return "needs running statistics and affine parameters to fold"
    reference = held.get(id(norm))
    if reference is not None:
        return f"it is also held in {reference.where} ({reference.kind}), where it would stay"
    return ""


def _layer_refusal(model: nn.Module, layer: nn.Module) -> str:
    reason = _other_weight(layer)
    if reason:
        return reason
    reason = patched(layer) or computed(layer) or _hooks(layer, "_forward_hooks")
    if reason:
        return reason
    if isinstance(layer, QATLayer) and (
        layer._scales_started or "frozen_wts_scales" in layer._buffers
    ):
        return "its trained weight scale is that of the unfolded weight: fold before calibration"
    for name in ("weight", "bias"):
        shared = _sharer(model, layer, name)
        if shared is not None:
            return f"its {name} is shared with {shared}"
    return ""


def _other_weight(layer: nn.Module) -> str:
    if type(layer) in (*FOLDABLE, *LAYER_CLASSES.values()):
        return ""
    rule = layer._rule if isinstance(layer, QATLayer) else layer_rule(layer)
    if rule is None or isinstance(rule, str):
        return f"{type(layer).__name__} is a custom class, which may use its weight otherwise"
    if rule.computes_parameters:
        return f"{type(layer).__name__} computes its weight from this parameter"
    return ""


def _sharer(model: nn.Module, layer: nn.Module, name: str) -> str | None:
    tensor = layer._parameters[name]
    if tensor is None:
        return None
    for path, module in model.named_modules():
        own = module._parameters.values()
        if module is not layer and any(parameter is tensor for parameter in own):
            return path or type(module).__name__
    return None


def _hooks(module: nn.Module, *names: str) -> str:
    held: list[Mapping[int, Any]] = [getattr(module, name) for name in names]
    return "it has hooks, which would get another value" if any(held) else ""


def _sizes(layer: Any, norm: Any, layer_path: str, norm_path: str) -> str:
    outputs = getattr(layer, "out_channels", None) or layer.out_features
    if outputs != norm.num_features:
        return f"{layer_path} has {outputs} outputs, {norm_path} normalizes {norm.num_features}"
    a, b = layer.weight, norm.weight
    if (a.dtype, a.device) != (b.dtype, b.device):
        return (
            f"{layer_path} is {a.dtype} on {a.device}, {norm_path} is {b.dtype} on {b.device}; "
            "they must agree"
        )
    return ""


def _rank(layer: nn.Module, path: str, calls: Calls) -> str:
    """Return the reason if axis 1, which BatchNorm normalizes, is not the layer's output axis."""
    weight: Any = layer.weight
    others = calls.ranks.get(path, set()) - {weight.ndim}
    if not others:
        return ""
    return f"the output of {path} has rank {min(others)}, whose axis 1 is not its output channels"
