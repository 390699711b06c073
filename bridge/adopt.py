"""Bringing what a conversion moved back to the torch model."""

import torch
from torch import nn

from bridge.export.summary import Conversion
from bridge.modules.base import QATLayer


def adopt(model: nn.Module, conversion: Conversion) -> nn.Module:
    """Let a model's layers multiply by the rescales that its conversion moved.

    Its forward in eval mode then has the bits of fake-quant and deploy up to the first operator
    that torch and ONNX Runtime round differently. Training goes on as if nothing had been moved:
    a channel whose scales change uses them, and the next conversion moves what it needs to.

    Args:
        model: the model that was exported.
        conversion: of its file.
    Returns:
        model.
    Raises:
        ValueError: the model has no such layer, the layer's number of channels is another, or the
            conversion is of mode "fast".
    """
    if conversion.mode != "exact":
        raise ValueError(
            f"a conversion of mode {conversion.mode!r} computes something else than the model, "
            "whatever it adopts; convert with mode='exact'"
        )
    layers = dict(model.named_modules())
    for summary in conversion.layers:
        if summary.moved is None:
            continue
        layer = layers.get(summary.name)
        if not isinstance(layer, QATLayer):
            raise ValueError(f"the model has no quantized layer {summary.name!r} to adopt for")
        natural, moved = (
            torch.from_numpy(values.copy())
            for values in (summary.moved.natural, summary.moved.moved)
        )
        if len(natural) not in (1, layer.out_channels):
            raise ValueError(
                f"layer {summary.name!r} has {layer.out_channels} channels, the conversion "
                f"moved {len(natural)}"
            )
        layer.adopt_rescale(natural, moved)
    return model
