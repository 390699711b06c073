"""Folding BatchNorm into the convolution or linear layer before it."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from bridge.modules.ranges import RangedModule
from qatfunc.channels import to_full_rank

_FOLDABLE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Pairs = Sequence[tuple[str, str]]


def fold_batch_norm(
    model: nn.Module,
    *,
    trainable: bool = False,
    pairs: Pairs | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Fold each BatchNorm into the layer whose output only it reads.

        f = gamma / sqrt(var + eps);   weight' = weight * f;   bias' = (bias - mean) * f + beta

    Args:
        model: any module; QAT layers or the float layers they will replace.
        trainable: keep weight, gamma and beta as parameters of the folded weight, which is what
            then trains and is quantized (statistics stay as they are); bake before the export.
            Otherwise the folded weight is the parameter.
        pairs: paths (layer, BatchNorm); found by tracing if left out.
        inplace: change model itself instead of a copy.
    Returns:
        the folded model, with Identity where a BatchNorm was.
    Raises:
        ValueError: a pair is not a layer and a BatchNorm with statistics of its size, or the
            model cannot be traced and pairs is left out.
    """
    model = model if inplace else copy.deepcopy(model)
    for layer_path, norm_path in find_pairs(model) if pairs is None else pairs:
        layer, norm = model.get_submodule(layer_path), model.get_submodule(norm_path)
        _check(layer, norm, layer_path, norm_path)
        if layer.bias is None:
            zeros = layer.weight.new_zeros(norm.num_features)
            layer.bias = nn.Parameter(zeros)
        _fold(layer, norm, trainable=trainable)
        model.set_submodule(norm_path, nn.Identity())
    return model


def bake_batch_norm(model: nn.Module) -> nn.Module:
    """Turn the folded weights of a trainable fold into ordinary parameters, in place.

    Args:
        model: from fold_batch_norm(trainable=True).
    Returns:
        model; its forward has the same bits as before.
    """
    for layer in list(model.modules()):
        for name in ("weight", "bias"):
            if parametrize.is_parametrized(layer, name) and any(
                isinstance(p, _Folded)
                for p in layer.parametrizations[name]  # type: ignore[index]
            ):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return model


def find_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Find the BatchNorms that alone read a foldable layer's output.

    Args:
        model: any module that torch.fx can trace with its layers as leaves.
    Returns:
        (layer path, BatchNorm path) pairs.
    Raises:
        ValueError: the model cannot be traced.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(f"the model cannot be traced, give the pairs: {error}") from error
    modules = dict(model.named_modules())
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = [modules[str(node.target)] for node in nodes]
    pairs = []
    for node, norm in zip(nodes, calls, strict=True):
        source = node.args[0] if node.args else None
        if not isinstance(norm, _NORMS) or not isinstance(source, fx.Node):
            continue
        layer = modules.get(str(source.target)) if source.op == "call_module" else None
        # A layer or BatchNorm that is called twice stands for two places; neither is folded.
        once = len(source.users) == 1 and _times(calls, layer) == _times(calls, norm) == 1
        if isinstance(layer, _FOLDABLE) and once:
            pairs.append((str(source.target), str(node.target)))
    return pairs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, RangedModule) or super().is_leaf_module(m, module_qualified_name)


class _Folded(nn.Module):
    """A parametrization by a BatchNorm's affine map with its statistics held."""

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


def _fold(layer: nn.Module, norm: nn.Module, *, trainable: bool) -> None:
    transposed, groups = isinstance(layer, _TRANSPOSED), getattr(layer, "groups", 1)
    weight = _FoldedWeight(norm, transposed=transposed, groups=groups)
    bias = _FoldedBias(norm)
    if trainable:
        parametrize.register_parametrization(layer, "weight", weight)
        parametrize.register_parametrization(layer, "bias", bias)
        return
    with torch.no_grad():
        layer.weight = nn.Parameter(weight(layer.weight))
        layer.bias = nn.Parameter(bias(layer.bias))


def _check(layer: nn.Module, norm: nn.Module, layer_path: str, norm_path: str) -> None:
    if not isinstance(layer, _FOLDABLE) or not isinstance(norm, _NORMS):
        raise ValueError(
            f"{layer_path} and {norm_path} must be a convolution or linear layer and a BatchNorm, "
            f"got {type(layer).__name__} and {type(norm).__name__}"
        )
    if norm.running_var is None or norm.weight is None:
        raise ValueError(f"{norm_path}: needs running statistics and affine parameters to fold")
    outputs = getattr(layer, "out_channels", None) or layer.out_features
    if outputs != norm.num_features:
        raise ValueError(
            f"{layer_path} has {outputs} outputs, {norm_path} normalizes {norm.num_features}"
        )


def _times(calls: Iterable[nn.Module], module: nn.Module | None) -> int:
    return sum(called is module for called in calls)
