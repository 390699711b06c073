"""QAT operators as torch modules."""

from torch import nn

from bridge.modules.base import QATLayer
from bridge.modules.conv import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
)
from bridge.modules.linear import LinearQAT
from bridge.modules.matmul import MatMulQAT

LAYER_CLASSES: dict[type[nn.Module], type[QATLayer]] = {
    layer.operator.float_class: layer
    for layer in (
        Conv1dQAT,
        Conv2dQAT,
        Conv3dQAT,
        ConvTranspose1dQAT,
        ConvTranspose2dQAT,
        LinearQAT,
    )
}
"""The QAT class of each float class."""

__all__ = [
    "LAYER_CLASSES",
    "Conv1dQAT",
    "Conv2dQAT",
    "Conv3dQAT",
    "ConvTranspose1dQAT",
    "ConvTranspose2dQAT",
    "LinearQAT",
    "MatMulQAT",
]
