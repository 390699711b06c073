"""Which layers an operator can replace, and why another cannot be."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from bridge.modules import LAYER_CLASSES
from bridge.modules.base import QATLayer

# Classes with weights that could be quantized but that no operator here replaces.
_WITHOUT_OPERATOR = (
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
)


def is_candidate(module: nn.Module) -> bool:
    """Return whether a plan says something of a module.

    Args:
        module: any module.
    Returns:
        True for layers that an operator replaces, or that have weights and no operator.
    """
    return isinstance(module, (*LAYER_CLASSES, *_WITHOUT_OPERATOR, QATLayer))


def refusal(model: nn.Module, path: str, module: nn.Module) -> str:
    """Return why a layer cannot be replaced.

    Args:
        model: what holds the layer.
        path: of the layer in the model.
        module: the layer.
    Returns:
        the reason, "" for a layer that an operator can replace.
    """
    if type(module) in LAYER_CLASSES:
        parent = model.get_submodule(path.rpartition(".")[0])
        if path and isinstance(parent, nn.TransformerEncoderLayer):
            return (
                "TransformerEncoderLayer reads this weight without calling the layer in eval mode"
            )
        dtype = module.weight.dtype
        return "" if dtype is torch.float32 else f"its weight is {dtype}, not torch.float32"
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    for float_class in LAYER_CLASSES:
        if isinstance(module, float_class):
            return f"subclass of {float_class.__name__}: its forward may compute something else"
    return f"no operator for {type(module).__name__}"
