"""The networks: small or well-known shapes of quantized layers, with random numbers in them.

Each has a plain variant, in which no operator stands that torch and ONNX Runtime compute with
other last bits: no BatchNorm, no Sigmoid, no global average.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT, calibrate

Maker = Callable[[], nn.Module]


def randomized(make: Maker, *shape: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Make a network with random weights and statistics, calibrated on the input it returns."""
    torch.manual_seed(seed)
    model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(shape)
    calibrate(model, [x])
    return model, x


def lenet(*, plain: bool = False) -> nn.Module:
    """LeNet-5 for 28 x 28 images of one channel."""
    squash = nn.ReLU if plain else nn.Sigmoid
    return nn.Sequential(
        Conv2dQAT(1, 6, 5, padding=2),
        squash(),
        nn.MaxPool2d(2),
        Conv2dQAT(6, 16, 5),
        squash(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        LinearQAT(400, 120),
        squash(),
        LinearQAT(120, 84),
        squash(),
        LinearQAT(84, 10),
    )


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)); the branch is two 3 x 3 convolutions or a bottleneck."""

    def __init__(
        self, channels: tuple[int, int, int], *, stride: int, bottleneck: bool, plain: bool
    ) -> None:
        super().__init__()
        first, inner, last = channels
        shapes = [(first, inner, 3, stride), (inner, last, 3, 1)]
        if bottleneck:
            shapes = [(first, inner, 1, 1), (inner, inner, 3, stride), (inner, last, 1, 1)]
        units = [_unit(shape, plain=plain) for shape in shapes]
        self.branch = nn.Sequential(*units[:1], *(nn.Sequential(nn.ReLU(), u) for u in units[1:]))
        same = stride == 1 and first == last
        self.shortcut = nn.Identity() if same else _unit((first, last, 1, stride), plain=plain)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _unit(shape: tuple[int, int, int, int], *, plain: bool) -> nn.Module:
    first, last, kernel, stride = shape
    conv = nn.Conv2d(first, last, kernel, stride, kernel // 2, bias=plain)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    quantized = Conv2dQAT.from_float(conv)
    return quantized if plain else nn.Sequential(quantized, nn.BatchNorm2d(last))


class ResNet(nn.Module):
    """He et al. 2015, with basic blocks or bottlenecks, for images of three channels."""

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        bottleneck: bool,
        plain: bool = False,
        width: int = 64,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _unit((3, width, 7, 2), plain=plain), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        previous = width
        for stage, depth in enumerate(depths):
            inner = width << stage
            last = 4 * inner if bottleneck else inner
            for i in range(depth):
                stride = 2 if stage and not i else 1
                channels = (previous, inner, last)
                blocks.append(Residual(channels, stride=stride, bottleneck=bottleneck, plain=plain))
                previous = last
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveMaxPool2d(1) if plain else nn.AdaptiveAvgPool2d(1)
        self.head = LinearQAT(previous, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def resnet18(*, plain: bool = False, width: int = 64) -> nn.Module:
    """ResNet-18."""
    return ResNet((2, 2, 2, 2), bottleneck=False, plain=plain, width=width)


def resnet101(*, classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-101."""
    return ResNet((3, 4, 23, 3), bottleneck=True, classes=classes, width=width)


class UNet(nn.Module):
    """Ronneberger et al. 2015 with two levels; transposed convolutions on the way up."""

    def __init__(self, *, plain: bool = False, width: int = 8) -> None:
        super().__init__()
        w = width
        self.down1 = _double(3, w, plain=plain)
        self.down2 = _double(w, 2 * w, plain=plain)
        self.bottom = _double(2 * w, 4 * w, plain=plain)
        self.up2 = ConvTranspose2dQAT(4 * w, 2 * w, 2, stride=2)
        self.merge2 = _double(4 * w, 2 * w, plain=plain)
        self.up1 = ConvTranspose2dQAT(2 * w, w, 3, 2, 1, groups=2, output_padding=1)
        self.merge1 = _double(2 * w, w, plain=plain)
        self.head = Conv2dQAT(w, 2, 1)
        self.squash = nn.Identity() if plain else nn.Sigmoid()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        up = self.up2(self.bottom(self.pool(second)))
        up = self.up1(self.merge2(torch.cat([up, second], 1)))
        return self.squash(self.head(self.merge1(torch.cat([up, first], 1))))


def _double(first: int, last: int, *, plain: bool) -> nn.Module:
    """Two units with ReLUs; the second one depthwise separable, so that groups occur."""
    return nn.Sequential(
        _unit((first, last, 3, 1), plain=plain),
        nn.ReLU(),
        Conv2dQAT(last, last, 3, padding="same", groups=last),
        Conv2dQAT(last, last, 1),
        nn.LeakyReLU(0.1),
    )


def volume_network(*, plain: bool = False) -> nn.Module:
    """Three 3-D convolutions and a head, for volumes of one channel and 8 x 16 x 16 voxels."""
    return nn.Sequential(
        Conv3dQAT(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool3d(2),
        Conv3dQAT(8, 16, (1, 3, 3), stride=(1, 2, 2), padding="valid"),
        nn.ReLU() if plain else nn.Sigmoid(),
        Conv3dQAT(16, 16, 3, padding="same", groups=4, bias=False),
        nn.ReLU6(),
        nn.Flatten(),
        LinearQAT(16 * 4 * 3 * 3, 10),
    )
