"""Optimizing ranges and weight scales: parameter groups, and exclusion from sharding."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from bridge.arguments import check_model
from bridge.distributed import Group, alone
from bridge.modules.weighted import QATLayer, qat_layers
from qatfunc.operators.arguments import check_keys

__all__ = ["average_whole_gradients", "parameter_groups", "whole_parameters"]

_MEANT = {"learning_rate": "lr", "wd": "weight_decay", "decay": "weight_decay"}
_OF_GROUPS = frozenset({"name", "param_names", "initial_lr", "lr_scale"})
"""Keys that learning rate schedulers and other tools add to groups."""


def parameter_groups(
    model: nn.Module,
    *,
    ranges: Mapping[str, Any] | None = None,
    scales: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return a model's trainable parameters as parameter groups for a torch.optim optimizer.

    weight_decay is 0 for ranges and weight scales unless given, as decay would shrink them to 0.

    Args:
        model: any module.
        ranges: options of the group of input ranges (clips), such as {"lr": 1e-4}.
        scales: options of the group of trained weight scales.
    Returns:
        the non-empty groups, each parameter once: the float model's parameters, with the
        optimizer's default options; the ranges; the weight scales.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: no loaded optimizer has such an option, or lr or weight_decay is negative.

    >>> from bridge import LinearQAT
    >>> net = nn.Sequential(LinearQAT(2, 2))
    >>> optimizer = torch.optim.AdamW(parameter_groups(net, ranges={"lr": 1e-4}), lr=1e-2)
    >>> [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]
    [(2, 0.01), (2, 0.0001)]
    """
    check_model(model, "parameter_groups")
    _check_options("ranges", ranges)
    _check_options("scales", scales)
    clips, steps = _ranges(model), _scales(model)
    own = [p for p in model.parameters() if p not in clips and p not in steps]
    groups: list[dict[str, Any]] = [
        {"params": own},
        {"params": clips, "weight_decay": 0.0, **(ranges or {})},
        {"params": steps, "weight_decay": 0.0, **(scales or {})},
    ]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    return [group for group in groups if group["params"]]


def whole_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of quantization, which FSDP must not shard.

    For torch.distributed.fsdp.fully_shard(model, ignored_params=whole_parameters(model)). FSDP
    does not average the gradients of ignored parameters: see average_whole_gradients.

    Args:
        model: any module.
    Returns:
        the input ranges, weight scales and weight offsets.
    """
    check_model(model, "whole_parameters")
    return {*_ranges(model), *_scales(model)}


@torch.no_grad()
def average_whole_gradients(model: nn.Module, group: Group = None) -> None:
    """Average the gradients of whole_parameters over ranks, in one all-reduce.

    Every process of the group must call it, between backward() and the optimizer's step.

    Args:
        model: the model; its quantization parameters are on one device.
        group: the processes that train it, None for all processes.
    """
    parameters = [*_ranges(model), *_scales(model)]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if alone(group) or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    flat /= dist.get_world_size(group)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def _check_options(name: str, options: Any) -> None:
    """Raise for unknown options, which torch's optimizers ignore silently, and for wrong values."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise TypeError(
            f"parameter_groups: {name} must be a dict of options such as {{'lr': 1e-4}}, "
            f"got {options!r}"
        )
    for key in options.keys() & _MEANT:
        raise ValueError(f"parameter_groups: {name} has no {key!r}; did you mean {_MEANT[key]!r}?")
    check_keys("parameter_groups", name, options, _known_options(Optimizer))
    for key in ("lr", "weight_decay"):
        value = options.get(key, 0.0)
        number = isinstance(value, int | float | Tensor) and not isinstance(value, bool)
        if not number:
            raise TypeError(f"parameter_groups: {name}[{key!r}] must be a number, got {value!r}")
        if not value >= 0:
            raise ValueError(f"parameter_groups: {name}[{key!r}] must be 0 or more, got {value}")


def _known_options(kind: type[Optimizer]) -> set[str]:
    """Return the options of all loaded optimizer classes, also of other packages."""
    known = set(inspect.signature(kind.__init__).parameters) | _OF_GROUPS
    for one in kind.__subclasses__():
        known |= _known_options(one)
    return known - {"self", "args", "kwargs", "params", "defaults"}


def _ranges(model: nn.Module) -> dict[nn.Parameter, None]:
    return {
        layer.get_parameter(f"{name}_clip_{end}"): None
        for _, layer in qat_layers(model)
        for name in layer.ranges
        for end in ("max", "min")
    }


def _scales(model: nn.Module) -> dict[nn.Parameter, None]:
    return {
        layer.get_parameter(name): None
        for _, layer in qat_layers(model)
        if isinstance(layer, QATLayer)
        for name in ("wts_scales", "wts_offsets")
    }
