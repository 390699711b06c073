"""ResNet of bottleneck blocks, where torchvision's is not installed."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + identity)


class ResNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for i, count in enumerate(blocks):
            planes = width << i
            stage = nn.Sequential(*_stage(inputs, planes, count, stride=1 if i == 0 else 2))
            self.add_module(f"layer{i + 1}", stage)
            inputs = planes * EXPANSION
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet101(
    pretrained: bool = False,
    *,
    blocks: tuple[int, ...] = (3, 4, 23, 3),
    width: int = 64,
    **kwargs: Any,
) -> ResNet:
    """The network with random weights: there is nothing here to be pretrained on."""
    torch.manual_seed(0)
    return ResNet(blocks, width, kwargs.get("num_classes", 1000))


def _stage(inputs: int, planes: int, count: int, *, stride: int) -> Iterator[nn.Module]:
    yield Bottleneck(inputs, planes, stride)
    for _ in range(count - 1):
        yield Bottleneck(planes * EXPANSION, planes, 1)
