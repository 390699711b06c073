"""Both of torch's exporters, without their warnings about themselves."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_OWN_WARNINGS = (
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed. Please remove usage of this function"),
    # Of F.pad in the TorchScript exporter.
    (UserWarning, "Constant folding - Only steps=1 can be constant folded"),
    # Of output_size, whose check torch's own ConvTranspose2d traces.
    (torch.jit.TracerWarning, "Converting a tensor to a Python boolean"),
)


def export(model: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    """Call torch.onnx.export as a user does; every warning but the exporters' own is an error."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for category, message in _OWN_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        torch.onnx.export(model, (x,), path, **options)
    return path


def export_any_batch(model: nn.Module, x: Tensor, path: Path, *, dynamo: bool) -> Path:
    """Export with a dynamic batch; x has at least two samples, torch.export wants that."""
    if dynamo:
        return export(model, x, path, dynamic_shapes=({0: "batch"},))
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    return export(model, x, path, dynamo=False, **names)
