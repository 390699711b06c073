"""Networks with random numbers in them, prepared and calibrated."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bridge import calibrate, prepare_qat

Maker = Callable[[], nn.Module]


def randomized(make: Maker, *shape: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Make a network with random weights and statistics, calibrated on the input it returns."""
    torch.manual_seed(seed)
    model = prepare_qat(make(), inplace=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(shape)
    calibrate(model, [x])
    return model, x
