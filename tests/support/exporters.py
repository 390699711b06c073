"""Exporting models with either of torch's exporters."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXPORTERS = {"default": True, "torchscript": False}
"""What torch.onnx.export's argument dynamo is for each exporter."""

# What the exporters say about themselves.
_OWN_WARNINGS = (
    ("`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning),
    ("You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    ("The feature will be removed", DeprecationWarning),
)


@contextmanager
def quiet() -> Iterator[None]:
    """Let the exporters' own warnings pass."""
    with warnings.catch_warnings():
        for message, category in _OWN_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        yield


def export(model: nn.Module, x: Any, path: Path, exporter: str, **more: Any) -> Path:
    """Call torch.onnx.export as a user does."""
    with quiet():
        torch.onnx.export(model, x, str(path), dynamo=EXPORTERS[exporter], **more)
    return path


def dynamic(exporter: str) -> dict[str, Any]:
    """The arguments that leave the first axis of one input open."""
    if exporter == "default":
        return {"dynamic_shapes": ({0: "batch"},)}
    return {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}}}


def export_network(model: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    """Export a network that makes an exporter warn of itself once more, and print."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        # Of F.pad in the TorchScript exporter.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        # Of output_size, whose check torch's own ConvTranspose2d traces.
        message = "Converting a tensor to a Python boolean"
        warnings.filterwarnings("ignore", message, torch.jit.TracerWarning)
        torch.onnx.export(model, (x,), path, **options)
    return path
