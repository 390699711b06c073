"""torch.onnx.export for models that make an exporter warn about itself once more."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.exporters import quiet


def export(model: nn.Module, x: Tensor, path: Path, **options: Any) -> Path:
    """Call torch.onnx.export as a user does; every warning but the exporters' own is an error."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        # Of F.pad in the TorchScript exporter.
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        # Of output_size, whose check torch's own ConvTranspose2d traces.
        message = "Converting a tensor to a Python boolean"
        warnings.filterwarnings("ignore", message, torch.jit.TracerWarning)
        torch.onnx.export(model, (x,), path, **options)
    return path
