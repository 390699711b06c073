"""Layers of other packages, written anew after what theirs compute, under the names of theirs."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_Class = TypeVar("_Class", bound=type)


def named(qualified: str) -> Callable[[_Class], _Class]:
    """Give a class the name that it has in its package."""

    def rename(cls: _Class) -> _Class:
        cls.__module__, _, cls.__qualname__ = qualified.rpartition(".")
        cls.__name__ = cls.__qualname__
        return cls

    return rename


def pad_same(x: Tensor, layer: Any) -> Tensor:
    """TensorFlow's padding "same": the output has ceil(size / stride) values an axis."""
    amounts: list[int] = []
    for size, k, s, d in zip(
        x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        amounts = [total // 2, total - total // 2, *amounts]
    return F.pad(x, amounts)


def convolve(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    return F.conv2d(x, weight, layer.bias, *geometry)


def standardize(layer: Any, gain: Tensor | None = None) -> Tensor:
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    rows = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=layer.eps)
    return rows.reshape_as(layer.weight)


@named("timm.layers.conv2d_same.Conv2dSame")
class Conv2dSame(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, pad_same(x, self), self.weight)


@named("efficientnet_pytorch.utils.Conv2dDynamicSamePadding")
class Conv2dDynamicSamePadding(nn.Conv2d):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.stride = list(self.stride)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, pad_same(x, self), self.weight)


@named("efficientnet_pytorch.utils.Conv2dStaticSamePadding")
class Conv2dStaticSamePadding(nn.Conv2d):
    def __init__(self, *arguments: Any, pads: tuple[int, ...] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.static_padding = nn.Identity() if pads is None else nn.ZeroPad2d(pads)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, self.static_padding(x), self.weight)


@named("timm.layers.std_conv.StdConv2d")
class StdConv2d(nn.Conv2d):
    def __init__(self, *arguments: Any, eps: float = 1e-6, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.eps = eps

    def effective(self) -> Tensor:
        return standardize(self)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, self.effective())


@named("timm.layers.std_conv.StdConv2dSame")
class StdConv2dSame(StdConv2d):
    def __init__(self, *arguments: Any, same_pad: bool = True, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.same_pad = same_pad

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, pad_same(x, self) if self.same_pad else x, self.effective())


@named("timm.layers.std_conv.ScaledStdConv2d")
class ScaledStdConv2d(StdConv2d):
    def __init__(self, *arguments: Any, gamma: float = 1.7, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, self.out_channels).view(-1, 1, 1, 1))
        self.scale = gamma * self.weight[0].numel() ** -0.5

    def effective(self) -> Tensor:
        return standardize(self, (self.gain * self.scale).view(-1))

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, self.effective())


@named("timm.layers.std_conv.ScaledStdConv2dSame")
class ScaledStdConv2dSame(ScaledStdConv2d):
    def __init__(self, *arguments: Any, same_pad: bool = True, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.same_pad = same_pad

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, pad_same(x, self) if self.same_pad else x, self.effective())


@named("transformers.models.bit.modeling_bit.WeightStandardizedConv2d")
class WeightStandardizedConv2d(StdConv2d):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.pad = lambda x: pad_same(x, self)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x if self.pad is None else pad_same(x, self), self.effective())


@named("transformers.pytorch_utils.Conv1D")
class Conv1D(nn.Module):
    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.2)
        self.bias = nn.Parameter(torch.zeros(nf))

    def __repr__(self) -> str:
        return f"Conv1D(nf={self.nf}, nx={self.nx})"

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], self.nf)


@named("transformers.models.perceiver.modeling_perceiver.Conv2dSamePadding")
class PerceiverConv2d(nn.Conv2d):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.zero_pad_2d = nn.ZeroPad2d((1, 2, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.zero_pad_2d(x), self.weight, self.bias)


@named("detectron2.layers.wrappers.Conv2d")
class DetectronConv2d(nn.Conv2d):
    def __init__(self, *arguments: Any, norm: Any = None, activation: Any = None, **more: Any):
        super().__init__(*arguments, **more)
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor) -> Tensor:
        y = convolve(self, x, self.weight)
        y = y if self.norm is None else self.norm(y)
        return y if self.activation is None else self.activation(y)


@named("timm.layers.linear.Linear")
class TimmLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@named("torchvision.models.video.resnet.Conv3DSimple")
class Conv3DSimple(nn.Conv3d):
    def __init__(self, in_planes: int, out_planes: int) -> None:
        super().__init__(in_planes, out_planes, (3, 3, 3), padding=1, bias=False)

    @staticmethod
    def get_downsample_stride(stride: int) -> tuple[int, int, int]:
        return stride, stride, stride


PADDED: dict[str, Callable[[], nn.Module]] = {
    "Conv2dSame": lambda: Conv2dSame(3, 4, 3, stride=2),
    "Conv2dSame 4x2": lambda: Conv2dSame(3, 6, (4, 2), stride=(1, 3), dilation=2, groups=3),
    "Dynamic": lambda: Conv2dDynamicSamePadding(3, 4, 5, stride=2),
    "Static": lambda: Conv2dStaticSamePadding(3, 4, 3, stride=2, pads=(0, 1, 1, 2)),
    "Static, none": lambda: Conv2dStaticSamePadding(3, 4, 3, padding=1),
    "Perceiver": lambda: PerceiverConv2d(3, 4, (2, 4), padding=(0, 1)),
    "Detectron": lambda: DetectronConv2d(3, 4, 3, padding=1),
    "Conv2d": lambda: named("somewhere.Plain")(type("Plain", (nn.Conv2d,), {}))(3, 4, 3),
}
STANDARDIZED: dict[str, Callable[[], nn.Module]] = {
    "StdConv2d": lambda: StdConv2d(3, 4, 3, padding=1, bias=False),
    "StdConv2dSame": lambda: StdConv2dSame(3, 4, 3, stride=2),
    "StdConv2dSame, static": lambda: StdConv2dSame(3, 4, 3, padding=1, same_pad=False),
    "ScaledStdConv2d": lambda: ScaledStdConv2d(3, 6, 3, groups=3),
    "ScaledStdConv2dSame": lambda: ScaledStdConv2dSame(3, 4, 4, stride=2),
    "WeightStandardizedConv2d": lambda: WeightStandardizedConv2d(3, 4, 3, stride=2),
}
