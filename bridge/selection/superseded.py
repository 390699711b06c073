"""Replaced float layers that a model still holds, so that its code could call them."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

from torch import nn

from bridge.modules.weighted import QATLayer
from bridge.selection.references import Reference, held_elsewhere


def guard(model: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Make the replaced float layers that a prepared model still holds raise when called.

    Args:
        model: with QAT layers instead of the originals.
        originals: the replaced layers, by path.
    """
    held = held_elsewhere(model)
    for path, layer in originals.items():
        reference = held.get(id(layer))
        if reference is None:
            continue
        message = never_called(path, reference)
        # A new dict: the replacement uses the layer's old one.
        layer._forward_pre_hooks = OrderedDict()
        layer.register_forward_pre_hook(partial(_refuse, message))
        if reference.kind == "a bound method":  # layer.forward(x) does not run hooks
            warnings.warn(message, stacklevel=3)


def float_originals(model: nn.Module) -> dict[int, nn.Module]:
    """Find the float layers that QAT layers replaced and that the model still holds.

    Args:
        model: any module.
    Returns:
        the float layers by the id of the weight that they share with a QAT layer.
    """
    return {key: reference.module for key, reference in held_originals(model).items()}


def held_originals(model: nn.Module) -> dict[int, Reference]:
    """Find the references to float layers that QAT layers replaced.

    Args:
        model: any module.
    Returns:
        the references by the id of the weight that a float layer shares with a QAT layer.
    """
    weights = {id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, QATLayer)}
    registered = {id(module) for module in model.modules()}
    return {
        id(reference.module._parameters.get("weight")): reference
        for reference in held_elsewhere(model).values()
        if id(reference.module._parameters.get("weight")) in weights
        and id(reference.module) not in registered
    }


def never_called(path: str, reference: Reference) -> str:
    """Return the message for a QAT layer whose float original the model calls instead.

    Args:
        path: of the QAT layer.
        reference: the model's reference to the float layer.
    Returns:
        the message.
    """
    return (
        f"layer {path!r}: its quantized layer is never called where the model calls the float "
        f"layer through {reference.where} ({reference.kind}); call it by its own name or hold it "
        f"in an nn.ModuleList or nn.ModuleDict, or leave it in float: skip=[{path!r}]"
    )


def _refuse(message: str, *_: Any) -> NoReturn:
    raise RuntimeError(message)
