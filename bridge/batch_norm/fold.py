"""Folding BatchNorm into the convolution or linear layer before it."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bridge.arguments import check_flags, check_model
from bridge.batch_norm.plan import FOLD, BatchNormPlan, plan_batch_norm, refusal
from bridge.batch_norm.rules import take_following
from bridge.modules.state.inference import copied, makes_state
from bridge.selection.references import held_elsewhere
from qatfunc.linear_maps.channels import to_full_rank

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SHOWN = 6
"""Largest number of BatchNorms that a warning names."""

Pairs = Sequence[tuple[str, str]]


@makes_state
def fold_batch_norm(
    model: nn.Module,
    *,
    trainable: bool = False,
    pairs: Pairs | None = None,
    inplace: bool = False,
    example: Any = None,
) -> nn.Module:
    """Fold each BatchNorm into the preceding layer, if nothing else uses that layer's output.

        f = gamma / sqrt(var + eps);   weight' = weight * f;   bias' = (bias - mean) * f + beta

    Parameters keep their requires_grad; a bias added to a layer has that of the BatchNorm's bias.
    A warning gives the reasons why BatchNorms are left.

    Args:
        model: any module; with QAT layers, or float layers to prepare later.
        trainable: keep weight, gamma and beta as parameters, from which each forward computes the
            folded weight that is quantized (the statistics stay fixed); call bake_batch_norm
            before the export. False: the folded weight becomes the parameter.
        pairs: paths (layer, BatchNorm); by default those of plan_batch_norm.
        inplace: change model itself instead of a copy.
        example: a batch as calibrate takes it, to find the pairs in one run where the model
            cannot be traced.
    Returns:
        the folded model; each folded BatchNorm is replaced by Identity, or by the activation that
        its class contains (timm's BatchNormAct2d).
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: a pair cannot be folded; or the model cannot be traced, and pairs and example
            are not given.
    """
    check_model(model, "fold_batch_norm")
    check_flags("fold_batch_norm", trainable=trainable, inplace=inplace)
    model = model if inplace else copied(model)
    if pairs is None:
        plans = plan_batch_norm(model, example=example)
        pairs = [(plan.layer, plan.path) for plan in plans if plan.action == FOLD]
    else:
        plans, pairs = BatchNormPlan(), _checked(model, pairs)
    for layer_path, norm_path in pairs:
        layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
        _replace(model, norm, take_following(norm))
        _fold(layer, norm, trainable=trainable)
    left = [f"{plan.path} ({plan.reason})" for plan in plans if plan.action != FOLD]
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        warnings.warn(
            f"fold_batch_norm: {len(plans) - len(left)} of {len(plans)} BatchNorms folded, left: "
            f"{', '.join(left[:_SHOWN])}{more}; see bridge.plan_batch_norm",
            stacklevel=2,
        )
    return model


@makes_state
def bake_batch_norm(model: nn.Module) -> nn.Module:
    """Replace the parametrizations of a trainable fold by ordinary parameters, in place.

    Args:
        model: from fold_batch_norm(trainable=True).
    Returns:
        model; its output has the same bits as before.
    """
    check_model(model, "bake_batch_norm")
    for layer in list(model.modules()):
        for name in ("weight", "bias"):
            if parametrize.is_parametrized(layer, name) and any(
                isinstance(p, _Folded)
                for p in layer.parametrizations[name]  # type: ignore[index]
            ):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return model


class _Folded(nn.Module):
    """A parametrization by a BatchNorm's affine map with fixed statistics."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.eval()

    def factor(self) -> Tensor:
        norm = self.norm
        return norm.weight / torch.sqrt(norm.running_var + norm.eps)  # type: ignore[operator, arg-type]


class _FoldedWeight(_Folded):
    def __init__(self, norm: nn.Module, *, transposed: bool, groups: int) -> None:
        super().__init__(norm)
        self.transposed, self.groups = transposed, groups

    def forward(self, weight: Tensor) -> Tensor:
        factor, layout = self.factor(), {"transposed": self.transposed, "groups": self.groups}
        if weight.ndim == 2:
            return weight * factor[:, None]
        return weight * to_full_rank(factor, weight, **layout)  # type: ignore[arg-type]


class _FoldedBias(_Folded):
    def forward(self, bias: Tensor) -> Tensor:
        norm = self.norm
        return (bias - norm.running_mean) * self.factor() + norm.bias  # type: ignore[operator]


def _checked(model: nn.Module, pairs: Any) -> list[tuple[str, str]]:
    """Return the caller's pairs, after a check that each can be folded."""
    chosen = [] if isinstance(pairs, str) else list(pairs)
    flat = [path for pair in chosen for path in pair]
    two = all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in chosen)
    if not two or not all(isinstance(path, str) for path in flat) or isinstance(pairs, str):
        raise TypeError(f"pairs must hold paths (layer, BatchNorm), got {pairs!r}")
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in flat:
        if path not in modules:
            raise ValueError(f"pairs: the model has no module {path!r}")
        if flat.count(path) > 1:
            raise ValueError(f"pairs: {path!r} is given twice, but can be folded only once")
    held = held_elsewhere(model)
    for layer_path, norm_path in chosen:
        reason = refusal(model, layer_path, norm_path, held=held)
        if reason:
            raise ValueError(reason)
    return [(layer, norm) for layer, norm in chosen]


def _fold(layer: Any, norm: Any, *, trainable: bool) -> None:
    if layer.bias is None:
        zeros = torch.zeros(norm.num_features, device=layer.weight.device, dtype=layer.weight.dtype)
        layer.bias = nn.Parameter(zeros, requires_grad=norm.bias.requires_grad)
    transposed, groups = isinstance(layer, _TRANSPOSED), getattr(layer, "groups", 1)
    weight = _FoldedWeight(norm, transposed=transposed, groups=groups)
    bias = _FoldedBias(norm)
    if trainable:
        parametrize.register_parametrization(layer, "weight", weight)
        parametrize.register_parametrization(layer, "bias", bias)
        return
    with torch.no_grad():
        for name, folded in (("weight", weight), ("bias", bias)):
            old = getattr(layer, name)
            setattr(layer, name, nn.Parameter(folded(old), requires_grad=old.requires_grad))


def _replace(model: nn.Module, norm: nn.Module, following: nn.Module) -> None:
    """Replace a BatchNorm, under every name that it is registered with."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is norm:
                setattr(parent, name, following)
