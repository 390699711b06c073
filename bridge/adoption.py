"""Using the rescales that a conversion adjusted in the torch model."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bridge.arguments import check_model
from bridge.modules.weighted import QATLayer, qat_layers

if TYPE_CHECKING:
    from bridge.export.result.conversion import Conversion, LayerSummary

__all__ = ["adopt"]


def adopt(model: nn.Module, conversion: "Conversion") -> nn.Module:
    """Use the rescales (scale_x * scale_w of a channel) that a conversion adjusted, in eval mode.

    The model's forward in eval mode then has the bits of the fake-quant and deploy models, up to
    the first operator that torch and ONNX Runtime round differently. Training is not affected: a
    channel whose scales change uses these, and the next conversion adjusts them again as needed.
    A warning names quantized layers that are not in the file.

    Args:
        model: the model that was exported; modified in place.
        conversion: what convert_qat_model returned for its file.
    Returns:
        model.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: the model lacks a layer of the conversion, a layer has another number of
            channels, or the conversion is of mode "fast".
    """
    check_model(model, "adopt")
    if not hasattr(conversion, "layers"):
        raise TypeError(
            "adopt: conversion must be what convert_qat_model returned, "
            f"got {type(conversion).__name__}"
        )
    if conversion.mode != "exact":
        raise ValueError(
            f"a conversion of mode {conversion.mode!r} rounds differently from the model, and no "
            "rescales change that; convert with mode='exact'"
        )
    layers = dict(model.named_modules())
    changes = [_change(layers, summary) for summary in conversion.layers if summary.adjusted]
    for layer, natural, adjusted in changes:
        layer.adopt_rescale(natural, adjusted)
    lacking = lacking_layers(model, conversion)
    if lacking:
        warnings.warn(
            f"adopt: quantized layers that are not in the file: {', '.join(lacking)}; the model "
            "did not call them when it was exported",
            stacklevel=2,
        )
    return model


def lacking_layers(model: nn.Module, conversion: "Conversion") -> list[str]:
    """Return the quantized layers of a model that are not in its exported file.

    Args:
        model: the model that was exported.
        conversion: what convert_qat_model returned for its file.
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
    """Return a layer, its rescale scale_x * scale_w, and the adjusted one."""
    layer, change = layers.get(summary.name), summary.adjusted
    if not isinstance(layer, QATLayer) or change is None:
        raise ValueError(f"the model has no quantized layer {summary.name!r} to adopt for")
    if len(change.natural) not in (1, layer.out_channels):
        raise ValueError(
            f"layer {summary.name!r} has {layer.out_channels} channels, the conversion "
            f"adjusted {len(change.natural)}"
        )
    natural, adjusted = (torch.from_numpy(v.copy()) for v in (change.natural, change.adjusted))
    return layer, natural, adjusted
