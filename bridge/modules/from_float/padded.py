"""Zero padding of the input by a rule, in addition to the layer's own padding."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.layer_classes.rule import LayerRule
from bridge.modules.symbolic import export_padded, open_sizes
from qatfunc.linear_maps.padding import same_padding


def pad_input(
    rule: LayerRule, layer: Any, x: Tensor, geometry: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Pad the input as a rule states.

    Every grid contains 0, so padding before quantization equals padding after it. Where sizes are
    Python ints, padding that is equal on both sides of every axis becomes the convolution's own.

    Args:
        rule: the rule; without a padding nothing is changed.
        layer: the layer that the rule's padding is called with.
        x: (N, C, *spatial).
        geometry: the operator's keyword arguments; not modified.
    Returns:
        the padded x, and the keyword arguments for the operator.
    Raises:
        ValueError: the rule's padding is not a pair of non-negative numbers for each spatial axis.
        RuntimeError: the TorchScript exporter runs with dynamic spatial axes, on whose sizes the
            padding depends.
    """
    pads = _pads(rule, layer, x)
    if pads is None:
        return x, geometry
    fixed = all(isinstance(amount, int) for pair in pads for amount in pair)
    if layer.operator.transposed or not fixed or torch.compiler.is_dynamo_compiling():
        return _padded(x, pads), geometry
    own = _own_padding(layer, geometry)
    total = [(a + before, b + after) for (a, b), (before, after) in zip(own, pads, strict=True)]
    inner = [min(pair) for pair in total]
    outer = [(before - i, after - i) for (before, after), i in zip(total, inner, strict=True)]
    return _padded(x, outer), {**geometry, "padding": tuple(inner)}


def _pads(rule: LayerRule, layer: Any, x: Tensor) -> list[tuple[int, int]] | None:
    if rule.padding is None:
        return None
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    shape = _numbers(x) if tracing else tuple(x.shape)
    pads = rule.padding(layer, shape)
    if tracing and open_sizes() and _depends_on_size(rule, layer, shape):
        raise RuntimeError(
            f"{layer._where()}: its padding depends on the size of its input, which the "
            "TorchScript exporter treats as fixed: leave only the batch axis in dynamic_axes, or "
            "export with dynamo=True"
        )
    if pads is None:
        return None
    pairs = [tuple(pair) for pair in pads]
    if len(pairs) != x.ndim - 2 or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"{layer._where()}: its registered padding must be (before, after) for each of "
            f"{x.ndim - 2} axes, got {pads!r}"
        )
    if any(isinstance(amount, int) and amount < 0 for pair in pairs for amount in pair):
        raise ValueError(f"{layer._where()}: its registered padding is negative: {pads!r}")
    return [(before, after) for before, after in pairs]


def _numbers(x: Tensor) -> tuple[int, ...]:
    """Return the shape of x as ints; within torch.jit.trace sizes are tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return tuple(int(size) for size in x.shape)


def _depends_on_size(rule: LayerRule, layer: Any, shape: tuple[int, ...]) -> bool:
    """Whether the padding depends on the spatial sizes; it is periodic in them by the stride."""
    padding: Any = rule.padding
    others = range(1, max(2, *layer.stride))
    sizes = [(*shape[:2], *(size + more for size in shape[2:])) for more in others]
    pads = padding(layer, shape)
    return any(padding(layer, other) != pads for other in sizes)


def _own_padding(layer: Any, geometry: dict[str, Any]) -> list[tuple[int, int]]:
    padding, axes = geometry["padding"], len(layer.kernel_size)
    if padding == "same":
        return same_padding(layer.kernel_size, geometry["dilation"])
    amounts = (0,) * axes if padding == "valid" else padding
    amounts = (amounts,) * axes if isinstance(amounts, int) else amounts
    return [(amount, amount) for amount in amounts]


def _padded(x: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """Pad the last axes of x."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    if all(isinstance(amount, int) and amount == 0 for amount in flat):
        return x
    return export_padded(x, flat)
