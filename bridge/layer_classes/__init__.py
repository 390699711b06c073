"""Rules for layers of other classes than torch's own: which operator each one computes.

Index, each importing only what is above it:
    rule      one class as an operator on a padded input and a computed weight
    known     the rules of classes of other packages (timm, Transformers, ...)
    registry  register_layer, and the rule of a given layer
"""

from bridge.layer_classes.registry import register_layer

__all__ = [
    "register_layer",
]
