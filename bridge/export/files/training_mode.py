"""Detecting an export in training mode by the operators that it leaves in a file."""

from pathlib import Path

import onnx_ir as ir

from bridge.export.graph.constants import constant, describe
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.names import module_path, scope_of_name
from bridge.export.graph.operators import is_standard, optional_input

RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
"""Operators whose outputs differ from run to run."""


def check_eval_mode(model: ir.Model, path: Path) -> None:
    """Raise if a model was exported in training mode, or computes with random numbers.

    Args:
        model: from normalize.model.read_model.
        path: of its file, for the message.
    Raises:
        ConversionError: a Dropout drops values, a BatchNormalization uses the statistics of the
            batch, or an operator draws random numbers; names the node.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if not is_standard(node):
            continue
        if node.op_type in RANDOM:
            raise ConversionError(
                f"{path}: {_where(node)} draws random numbers, so no two runs of the model agree; "
                "if it is a part of training, as DropPath is, export in eval mode, after "
                "net.eval(); if the model needs noise, make it an input"
            )
        reason = _training(node)
        if reason:
            raise ConversionError(
                f"{path}: {_where(node)} {reason}: the model was exported in training mode; call "
                "net.eval() before torch.onnx.export, and leave its argument `training` out"
            )


def _training(node: ir.Node) -> str:
    """Return what an operator does only in training, "" if nothing."""
    mode = optional_input(node, 2) if node.op_type == "Dropout" else None
    if mode is not None:
        # A model input with a default may be given, but an ordinary run uses the default.
        value = mode.const_value.numpy() if mode.const_value is not None else constant(mode)
        if value is None:
            return "may drop values (its training_mode is not constant)"
        return "drops values (training_mode is true)" if value.any() else ""
    if node.op_type == "BatchNormalization":
        mode_attribute = node.attributes.get("training_mode")
        used = [value for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
        trains = (mode_attribute is not None and mode_attribute.as_int()) or used
        # torch exports a BatchNorm without running statistics in this form in eval mode too.
        if trains and not all(_depends_on_data(value) for value in node.inputs[3:5]):
            return "uses the statistics of the batch (training_mode)"
    return ""


def _depends_on_data(value: ir.Value | None) -> bool:
    """Whether a value depends on the values of an input, and not only on its shape."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        if one is None or one in seen or one.const_value is not None:
            continue
        seen.add(one)
        node = one.producer()
        if node is None:
            return True
        if node.op_type not in ("Shape", "Size"):
            left += node.inputs
    return False


def _where(node: ir.Node) -> str:
    layer = module_path(node) or scope_of_name(node.name or "")
    return describe(node) + (f" of layer {layer!r}" if layer else "")
