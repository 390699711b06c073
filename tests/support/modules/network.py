"""A convolution, a product and a linear layer: every kind of state that layers have."""

from typing import Any

import torch
from torch import Tensor, nn

from bridge import Conv2dQAT, LinearQAT, MatMulQAT
from tests.support.modules.layers import LEARNED, config


class Net(nn.Module):
    """The scales of the last layer are trained, those of the first are ARQ's.

    Args:
        batch_num: batches that each layer is calibrated on.
        data: what else the section of the first layer's data says.
        channels: of the input, which has sides of 8.
    """

    def __init__(
        self, batch_num: int = 1, data: dict[str, Any] | None = None, *, channels: int = 1
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        common = {"batch_num": batch_num}
        self.conv = Conv2dQAT(channels, 4, 3, config=config(common | (data or {})))
        self.product = MatMulQAT(config=config(common))
        self.fc = LinearQAT(6, 3, config=config(common, LEARNED))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.product(x, x.transpose(-1, -2)))
