"""Every layer class, in containers of containers."""

import torch
from torch import Tensor, nn

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT, calibrate
from tests.support.modules.layers import config


class Nested(nn.Module):
    """Every layer class, inside containers of containers; float operators between them."""

    def __init__(self) -> None:
        super().__init__()
        learned = config(None, {"weights_retrain_algo": "ulq_retrain"})
        self.stem = nn.Sequential(Conv2dQAT(1, 4, 3, padding="same"), nn.ReLU())
        up = ConvTranspose2dQAT(
            4, 6, 3, stride=2, groups=2, padding=1, output_padding=1, config=learned
        )
        self.mix = ConvTranspose2dQAT(4, 4, 1)
        self.blocks = nn.ModuleList([nn.ModuleDict({"up": up, "act": nn.ReLU()})])
        self.volume = Conv3dQAT(
            1, 2, 2, config=config({"fixed_min": True}, {"channel_wise": False})
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Sequential(LinearQAT(2 * 5 * 9 * 9, 3, config=config({"asymmetric": False}))),
        )

    NAMES = ("stem.0", "mix", "blocks.0.up", "volume", "head.1.0")

    def forward(self, x: Tensor) -> Tensor:
        block = self.blocks[0]
        x = block["act"](block["up"](self.mix(self.stem(x))))
        return self.head(self.volume(x.unsqueeze(1)))


def nested() -> tuple[Nested, Tensor]:
    """The model after calibration and a step of training, in eval mode, and a batch for it."""
    torch.manual_seed(3)
    model, x = Nested(), torch.randn(3, 1, 5, 5)
    calibrate(model, [x])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(x).square().mean().backward()
    optimizer.step()
    return model.eval(), x
