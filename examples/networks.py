"""Float networks, small or well known, for examples, tests and benchmarks.

Some have a plain variant without operators whose last bits differ between torch and ONNX Runtime:
no BatchNorm, no Sigmoid, no global average pooling.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge import MatMulQAT


def lenet(*, plain: bool = False) -> nn.Module:
    """LeNet-5 for 28 x 28 images of one channel."""
    squash = nn.ReLU if plain else nn.Sigmoid
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        squash(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        squash(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        squash(),
        nn.Linear(120, 84),
        squash(),
        nn.Linear(84, 10),
    )


@torch.no_grad()
def settle(model: nn.Module, x: Tensor, *, rounds: int = 3) -> nn.Module:
    """Set every BatchNorm's running statistics to those of its input, as training does.

    With random or initial statistics the activations of a deep network shrink from layer to layer
    until its output is constant, and comparing constants proves nothing.

    Args:
        model: a network with initial weights; its mode is restored.
        x: an input of at least two samples.
        rounds: number of forwards to average over, each on x with its samples permuted.
    Returns:
        model itself.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    training, momenta = model.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over the rounds
    model.train()
    for _ in range(rounds):
        model(x[torch.randperm(len(x))])
    model.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def moves(model: nn.Module, first: Tensor, second: Tensor) -> float:
    """Return how much a network's first output depends on its input.

        |model(first) - model(second)| / |model(first)|

    Args:
        model: any network.
        first: an input.
        second: another input of the same shape.
    Returns:
        the relative change of the output, in the Euclidean norm.
    """
    with torch.no_grad():
        a, b = (y[0] if isinstance(y, tuple) else y for y in (model(first), model(second)))
    return float((a - b).norm() / a.norm())


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
    return conv if plain else nn.Sequential(conv, nn.BatchNorm2d(last))


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
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def resnet18(*, plain: bool = False, width: int = 64) -> nn.Module:
    """ResNet-18."""
    return ResNet((2, 2, 2, 2), bottleneck=False, plain=plain, width=width)


def resnet50(*, classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-50."""
    return ResNet((3, 4, 6, 3), bottleneck=True, classes=classes, width=width)


def resnet101(*, classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-101."""
    return ResNet((3, 4, 23, 3), bottleneck=True, classes=classes, width=width)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection; plus the input if the shapes match."""

    def __init__(self, first: int, last: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = first * expansion
        units = [_normed(first, inner, 1)] if expansion > 1 else []
        units.append(_normed(inner, inner, 3, stride=stride, groups=inner))
        project = nn.Sequential(nn.Conv2d(inner, last, 1, bias=False), nn.BatchNorm2d(last))
        self.branch = nn.Sequential(*units, project)
        self.adds = stride == 1 and first == last

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.adds else self.branch(x)


def _normed(first: int, last: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(first, last, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(last), nn.ReLU6())


def mobilenet_v2(*, classes: int = 10, width: float = 1.0) -> nn.Module:
    """MobileNetV2, Sandler et al. 2018."""

    def channels(full: int) -> int:
        return max(8, int(full * width + 4) // 8 * 8)

    previous = channels(32)
    layers = [_normed(3, previous, 3, stride=2)]
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    for expansion, full, depth, stride in (*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for i in range(depth):
            last, step = channels(full), stride if not i else 1
            layers.append(InvertedResidual(previous, last, stride=step, expansion=expansion))
            previous = last
    last = max(1280, channels(1280)) if width >= 1 else channels(1280)
    layers.append(_normed(previous, last, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes))
    return nn.Sequential(*layers, *head)


class Attention(nn.Module):
    """Multi-head self-attention whose two products of activations are quantized, too."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, 3 * width)
        self.scores, self.values = MatMulQAT(), MatMulQAT()
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        split = self.queries(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self.scores(query, key.transpose(-2, -1)) * (width // self.heads) ** -0.5
        mixed = self.values(torch.softmax(scores, dim=-1), value)
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Encoder(nn.Module):
    """One block of a vision transformer, with LayerNorm before attention and before the MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2020, for 32 x 32 images in patches of 8 x 8."""

    def __init__(self, *, width: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(1))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with two levels; the decoder has transposed convolutions."""

    def __init__(self, *, plain: bool = False, width: int = 8) -> None:
        super().__init__()
        w = width
        self.down1 = _double(3, w, plain=plain)
        self.down2 = _double(w, 2 * w, plain=plain)
        self.bottom = _double(2 * w, 4 * w, plain=plain)
        self.up2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2)
        self.merge2 = _double(4 * w, 2 * w, plain=plain)
        self.up1 = nn.ConvTranspose2d(2 * w, w, 3, 2, 1, groups=2, output_padding=1)
        self.merge1 = _double(2 * w, w, plain=plain)
        self.head = nn.Conv2d(w, 2, 1)
        self.squash = nn.Identity() if plain else nn.Sigmoid()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        up = self.up2(self.bottom(self.pool(second)))
        up = self.up1(self.merge2(torch.cat([up, second], 1)))
        return self.squash(self.head(self.merge1(torch.cat([up, first], 1))))


def _double(first: int, last: int, *, plain: bool) -> nn.Module:
    """Return two convolutions with activations; the second one is depthwise separable."""
    return nn.Sequential(
        _unit((first, last, 3, 1), plain=plain),
        nn.ReLU(),
        nn.Conv2d(last, last, 3, padding="same", groups=last),
        nn.Conv2d(last, last, 1),
        nn.LeakyReLU(0.1),
    )


def volume_network(*, plain: bool = False) -> nn.Module:
    """Three 3-D convolutions and a linear layer, for inputs of 1 x 8 x 16 x 16."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 16, (1, 3, 3), stride=(1, 2, 2), padding="valid"),
        nn.ReLU() if plain else nn.Sigmoid(),
        nn.Conv3d(16, 16, 3, padding="same", groups=4, bias=False),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 3 * 3, 10),
    )
