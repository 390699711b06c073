"""Rules for layer classes of other packages, none of which is imported.

timm and Transformers standardize weights and pad as TensorFlow does; efficientnet_pytorch and
segmentation_models_pytorch pad as TensorFlow does; GPT-2 stores its weights transposed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge.layer_classes.rule import LayerRule, Pads, Shape


def same_pads(layer: Any, shape: Shape) -> Pads:
    """Return the amounts of TensorFlow's "same" padding, which depend on the input's size.

        total = max((ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)

    Args:
        layer: a convolution.
        shape: of its input, (N, C, *spatial).
    Returns:
        (before, after) for each spatial axis; before = total // 2, after the remainder.

    >>> same_pads(nn.Conv2d(1, 1, 3, stride=2), (1, 1, 8, 9))
    [(0, 1), (1, 1)]
    """
    pads = []
    axes = zip(shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for size, kernel, stride, dilation in axes:
        # floor((size - 1) / stride) is ceil(size / stride) - 1, and its operands are never
        # negative: ONNX's Div, to which dynamic sizes are exported, rounds towards 0.
        covered = (size - 1) // stride * stride + (kernel - 1) * dilation + 1
        total = torch.sym_max(covered - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _same_pads_if_dynamic(layer: Any, shape: Shape) -> Pads | None:
    return same_pads(layer, shape) if layer.same_pad else None


def _bit_pads(layer: Any, shape: Shape) -> Pads | None:
    return None if layer.pad is None else same_pads(layer, shape)


def _static_pads(layer: Any, _: Shape) -> Pads | None:
    return _pads_of(layer.static_padding)


def _perceiver_pads(layer: Any, _: Shape) -> Pads | None:
    return _pads_of(layer.zero_pad_2d)


def _pads_of(padding: Any) -> Pads | None:
    if not isinstance(padding, nn.ZeroPad2d):
        return None
    left, right, top, bottom = padding.padding
    return [(top, bottom), (left, right)]


def _standardized(layer: Any) -> Tensor:
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    normed = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=layer.eps)
    return normed.reshape_as(layer.weight)


def _scaled_standardized(layer: Any) -> Tensor:
    rows, gain = (
        layer.weight.reshape(1, layer.out_channels, -1),
        (layer.gain * layer.scale).view(-1),
    )
    normed = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=layer.eps)
    return normed.reshape_as(layer.weight)


def _transposed(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.t()
    return weight


def _detectron_refusal(layer: Any) -> str:
    after = [name for name in ("norm", "activation") if getattr(layer, name, None) is not None]
    return f"its forward applies {' and '.join(after)} after the convolution" if after else ""


_DYNAMIC = LayerRule(base=nn.Conv2d, padding=same_pads)
_STATIC = LayerRule(base=nn.Conv2d, padding=_static_pads)
_TIMM = {
    "conv2d_same.Conv2dSame": _DYNAMIC,
    "conv2d_same.Conv2dSameExport": _DYNAMIC,
    "linear.Linear": LayerRule(base=nn.Linear),
    "std_conv.StdConv2d": LayerRule(base=nn.Conv2d, weight=_standardized),
    "std_conv.StdConv2dSame": LayerRule(
        base=nn.Conv2d, weight=_standardized, padding=_same_pads_if_dynamic
    ),
    "std_conv.ScaledStdConv2d": LayerRule(base=nn.Conv2d, weight=_scaled_standardized),
    "std_conv.ScaledStdConv2dSame": LayerRule(
        base=nn.Conv2d, weight=_scaled_standardized, padding=_same_pads_if_dynamic
    ),
}
_EFFICIENTNET = {"Conv2dDynamicSamePadding": _DYNAMIC, "Conv2dStaticSamePadding": _STATIC}
_TRANSFORMERS = {
    "pytorch_utils.Conv1D": LayerRule(base=nn.Linear, weight=_transposed),
    "models.bit.modeling_bit.WeightStandardizedConv2d": LayerRule(
        base=nn.Conv2d, weight=_standardized, padding=_bit_pads
    ),
    "models.falcon.modeling_falcon.FalconLinear": LayerRule(base=nn.Linear),
    "models.perceiver.modeling_perceiver.Conv2dSamePadding": LayerRule(
        base=nn.Conv2d, padding=_perceiver_pads
    ),
}

KNOWN: dict[str, LayerRule] = {
    **{f"timm.layers.{name}": rule for name, rule in _TIMM.items()},
    **{f"timm.models.layers.{name}": rule for name, rule in _TIMM.items()},
    **{f"efficientnet_pytorch.utils.{name}": rule for name, rule in _EFFICIENTNET.items()},
    **{
        f"segmentation_models_pytorch.encoders._efficientnet.{name}": rule
        for name, rule in _EFFICIENTNET.items()
    },
    **{f"transformers.{name}": rule for name, rule in _TRANSFORMERS.items()},
    "detectron2.layers.wrappers.Conv2d": LayerRule(base=nn.Conv2d, refusal=_detectron_refusal),
}
"""Rules by the qualified name of their class."""
