"""The table of QAT classes."""

from torch import nn

from bridge.modules.conv import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
)
from bridge.modules.linear import LinearQAT
from bridge.modules.weighted import QATLayer

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
