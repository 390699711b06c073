"""What is in a file: the layers that are read, and nodes."""

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from bridge.export.normalize.model import read_model
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import read_layers


def read(path: Path) -> list[QuantizedLayer]:
    return read_layers(read_model(path).graph)[0]


def nodes(graph: ir.Graph, op_type: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == op_type]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
