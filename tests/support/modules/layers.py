"""One small module of each class, for tests that hold for all of them."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridge import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
)
from qatfunc import operators


class Kind(NamedTuple):
    qat: type[nn.Module]
    plain: type[nn.Module]
    function: Any
    plain_function: Any
    sizes: tuple[int, ...]
    geometry: dict[str, Any]
    x: tuple[int, ...]

    def layer(self, data: Any = None, weight: Any = None, **more: Any) -> nn.Module:
        """The QAT module; data and weight are the sections of its config."""
        return self.qat(*self.sizes, **self.geometry, config=config(data, weight), **more)

    def float_layer(self, **more: Any) -> nn.Module:
        return self.plain(*self.sizes, **self.geometry, **more)

    def batch(self) -> Tensor:
        return torch.randn(self.x)


KINDS = {
    "conv1d": Kind(
        Conv1dQAT,
        nn.Conv1d,
        operators.conv1d,
        F.conv1d,
        (4, 6, 3),
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
        (2, 4, 8),
    ),
    "conv_transpose1d": Kind(
        ConvTranspose1dQAT,
        nn.ConvTranspose1d,
        operators.conv_transpose1d,
        F.conv_transpose1d,
        (4, 6, 3),
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2},
        (2, 4, 5),
    ),
    "conv2d": Kind(
        Conv2dQAT,
        nn.Conv2d,
        operators.conv2d,
        F.conv2d,
        (4, 6, 3),
        {"stride": 2, "padding": (1, 0), "dilation": 1, "groups": 2},
        (2, 4, 6, 5),
    ),
    "conv_transpose2d": Kind(
        ConvTranspose2dQAT,
        nn.ConvTranspose2d,
        operators.conv_transpose2d,
        F.conv_transpose2d,
        (4, 6, 3),
        {"stride": 2, "padding": 1, "output_padding": (1, 0), "groups": 2, "dilation": 1},
        (2, 4, 3, 4),
    ),
    "conv3d": Kind(
        Conv3dQAT,
        nn.Conv3d,
        operators.conv3d,
        F.conv3d,
        (2, 3, (2, 3, 2)),
        {"stride": (1, 2, 1), "padding": 1, "dilation": (1, 1, 2), "groups": 1},
        (2, 2, 3, 4, 5),
    ),
    "linear": Kind(LinearQAT, nn.Linear, operators.linear, F.linear, (5, 4), {}, (3, 5)),
}
NAMES = list(KINDS)


LEARNED = {"weights_retrain_algo": "ulq_retrain"}
"""The section of the weight for trained scales."""


def config(data: Any = None, weight: Any = None) -> dict[str, Any]:
    return {"retrain_data_config": data, "retrain_weight_config": weight}


def calibrated(name: str, data: Any = None, weight: Any = None) -> tuple[nn.Module, Tensor]:
    """A module after its calibration, in training mode, and another batch."""
    kind = KINDS[name]
    layer = kind.layer(data, weight)
    for _ in range((data or {}).get("batch_num") or 1):
        layer(kind.batch())
    assert layer.calibrated
    return layer, kind.batch()


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything a checkpoint holds."""
    return {name: value.clone() for name, value in module.state_dict().items()}
