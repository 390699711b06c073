"""The names that the ResNet-101 script uses and does not define."""

import torch
from torch import Tensor, nn

from tests.support.amct.user import Batches, fit, run_and_report

_trained: list[nn.Module] = []


def _images(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(2, 3, 64, 64, generator=generator),
            torch.randint(1000, (2,), generator=generator),
        )
        for _ in range(count)
    ]


train_data = _images(12)
test_data = _images(1)
data = val_data = test_data[0][0]


def train_and_val(model: nn.Module, train_data: Batches, test_data: Batches) -> None:
    fit(model, train_data, 0.001)
    _trained.append(model)


def validata_onnx(path: str, val_data: Tensor) -> None:
    run_and_report(_trained[-1], path, val_data)
