"""QAT operators as torch modules.

Index, each importing only what is above it:
    compiling       what torch.compile does at a call
    paths           a layer's path in the model that is running, for messages
    symbolic        export: standard QuantizeLinear and DequantizeLinear nodes
    state           what checkpoints hold, and copies that share it
    ranges          learned input ranges
    weight_scales   trained weight scales
    from_float      building layers from float layers
    weighted        what layers with weights share
    conv            convolutions
    linear          linear layers
    matmul          products of two activations
    classes         the QAT class of each float class
"""

from bridge.modules.classes import LAYER_CLASSES
from bridge.modules.conv import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
)
from bridge.modules.linear import LinearQAT
from bridge.modules.matmul import MatMulQAT

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
