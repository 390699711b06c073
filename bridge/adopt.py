"""Bringing what a conversion moved back to the torch model."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bridge.arguments import check_model
from bridge.modules.weighted import QATLayer, qat_layers

if TYPE_CHECKING:
    from bridge.export.result.conversion import Conversion, LayerSummary


def adopt(model: nn.Module, conversion: "Conversion") -> nn.Module:
    """Let a model's layers multiply by the rescales that its conversion moved.

    Its forward in eval mode then has the bits of fake-quant and deploy up to the first operator
    that torch and ONNX Runtime round differently. Training goes on as if nothing had been moved:
    a channel whose scales change uses them, and the next conversion moves what it needs to.
    Quantized layers that the file has not are named in a warning.

    Args:
        model: the model that was exported.
        conversion: of its file.
    Returns:
        model.
    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: the model has no such layer, the layer's number of channels is another, or the
            conversion is of mode "fast".
    """
    check_model(model, "adopt")
    if not hasattr(conversion, "layers"):
        raise TypeError(
            "adopt: conversion must be what convert_qat_model returned, "
            f"got {type(conversion).__name__}"
        )
    if conversion.mode != "exact":
        raise ValueError(
            f"a conversion of mode {conversion.mode!r} computes something else than the model, "
            "whatever it adopts; convert with mode='exact'"
        )
    layers = dict(model.named_modules())
    changes = [_change(layers, summary) for summary in conversion.layers if summary.moved]
    for layer, natural, moved in changes:
        layer.adopt_rescale(natural, moved)
    lacking = lacking_layers(model, conversion)
    if lacking:
        warnings.warn(
            f"adopt: quantized layers that the file has not: {', '.join(lacking)}; the model did "
            "not call them when it was exported",
            stacklevel=2,
        )
    return model


def lacking_layers(model: nn.Module, conversion: "Conversion") -> list[str]:
    """Return the quantized layers of a model that a conversion knows nothing of.

    Args:
        model: the model that was exported.
        conversion: of its file.
    Returns:
        their paths, in definition order.
    """
    known = {layer.name for layer in conversion.layers}
    known |= {operator.name for operator in conversion.left_in_float}
    layers = (path for path, layer in qat_layers(model) if isinstance(layer, QATLayer))
    return [path for path in layers if path not in known]


def _change(
    layers: Mapping[str, nn.Module], summary: "LayerSummary"
) -> tuple[QATLayer, Tensor, Tensor]:
    """Return a layer, the rescale it has by its scales, and what it became."""
    layer, moved = layers.get(summary.name), summary.moved
    if not isinstance(layer, QATLayer) or moved is None:
        raise ValueError(f"the model has no quantized layer {summary.name!r} to adopt for")
    if len(moved.natural) not in (1, layer.out_channels):
        raise ValueError(
            f"layer {summary.name!r} has {layer.out_channels} channels, the conversion "
            f"moved {len(moved.natural)}"
        )
    natural, other = (torch.from_numpy(v.copy()) for v in (moved.natural, moved.moved))
    return layer, natural, other
