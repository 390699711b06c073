"""Overhead of a quantized layer over torch's own on tensors so small that calls dominate."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT, calibrate

SMALL = {
    "Linear 4-4, 2x4": (nn.Linear(4, 4), (2, 4)),
    "Conv2d 2-2 3x3, 1x2x5x5": (nn.Conv2d(2, 2, 3, padding=1), (1, 2, 5, 5)),
}
STEPS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "forward": lambda module, x: module(x),
    "forward and backward": lambda module, x: module(x).sum().backward(),
}


def above_torch(layer: nn.Module, shape: tuple[int, ...], step: str, rounds: int) -> list[float]:
    """Return the CPU microseconds beyond torch's own layer, for each round."""
    x = torch.randn(shape, requires_grad=True)
    kind = LinearQAT if isinstance(layer, nn.Linear) else Conv2dQAT
    quantized = kind.from_float(layer)
    calibrate(quantized, [x.detach()])
    pair = (layer, quantized.train())
    for module in pair:
        _microseconds(partial(STEPS[step], module, x))
    return [
        -_microseconds(partial(STEPS[step], pair[0], x))
        + _microseconds(partial(STEPS[step], pair[1], x))
        for _ in range(rounds)
    ]


def _microseconds(function: Callable[[], Any], calls: int = 100) -> float:
    started = time.process_time()
    for _ in range(calls):
        function()
    return 1e6 * (time.process_time() - started) / calls
