"""Exporting models with either of torch's exporters, and a small model of every layer."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT, calibrate
from bridge.export.normalize.model import read_model
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import read_layers
from tests.bridge.layers import config

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


class Nested(nn.Module):
    """Every layer class, inside containers of containers; float operators between them."""

    def __init__(self) -> None:
        super().__init__()
        learned = config(None, {"weights_retrain_algo": "ulq_retrain"})
        self.stem = nn.Sequential(Conv2dQAT(1, 4, 3, padding="same"), nn.ReLU())
        up = ConvTranspose2dQAT(
            4, 6, 3, stride=2, groups=2, padding=1, output_padding=1, config=learned
        )
        self.mix = ConvTranspose2dQAT(4, 4, 1)
        self.blocks = nn.ModuleList([nn.ModuleDict({"up": up, "act": nn.ReLU()})])
        self.volume = Conv3dQAT(
            1, 2, 2, config=config({"fixed_min": True}, {"channel_wise": False})
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Sequential(LinearQAT(2 * 5 * 9 * 9, 3, config=config({"asymmetric": False}))),
        )

    NAMES = ("stem.0", "mix", "blocks.0.up", "volume", "head.1.0")

    def forward(self, x: Tensor) -> Tensor:
        block = self.blocks[0]
        x = block["act"](block["up"](self.mix(self.stem(x))))
        return self.head(self.volume(x.unsqueeze(1)))


def nested() -> tuple[Nested, Tensor]:
    """The model after calibration and a step of training, in eval mode, and a batch for it."""
    torch.manual_seed(3)
    model, x = Nested(), torch.randn(3, 1, 5, 5)
    calibrate(model, [x])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(x).square().mean().backward()
    optimizer.step()
    return model.eval(), x


def read(path: Path) -> list[QuantizedLayer]:
    return read_layers(read_model(path).graph)[0]


def nodes(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]
