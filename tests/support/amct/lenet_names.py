"""The names that the LeNet script uses and does not define."""

import builtins

import torch
from torch import Tensor, nn

from tests.support.amct.user import Batches, fit, run_and_report


def _digits(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(8, 1, 28, 28, generator=generator),
            torch.randint(10, (8,), generator=generator),
        )
        for _ in range(count)
    ]


train_data = _digits(13)
test_data = _digits(1)
data = val_data = test_data[0][0]


def train(net: nn.Module, train_data: Batches, test_data: Batches) -> None:
    fit(net, train_data, 0.1)
    # The script calls it net until here, and model from here on.
    builtins.model = net  # type: ignore[attr-defined]


def validata_onnx(path: str, val_data: Tensor) -> None:
    run_and_report(builtins.model, path, val_data)  # type: ignore[attr-defined]
