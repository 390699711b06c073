"""QAT operators as torch modules.

Index, each importing only what is above it:
    compiling       torch.compiler's decorators, without importing torch._dynamo
    paths           a layer's path in the running model, for messages
    symbolic        ONNX export: QuantizeLinear and DequantizeLinear nodes
    state           state_dicts, inference mode, checkpointing, replicas
    ranges          learned input ranges: calibration, forward, export
    weight_scales   trained weight scales
    from_float      building QAT layers from float layers, and back
    weighted        base class of layers with a weight
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
