"""Runs models in ONNX Runtime, and the Ascend dialect in onnx's reference evaluator."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from bridge.export.graph.constants import Array
from bridge.export.graph.protos import graphs_of
from bridge.export.running.ascend_operators import (
    Add,
    AscendAntiQuant,
    AscendDequant,
    AscendQuant,
    ConvTranspose,
    MatMul,
)

Feeds = dict[str, Array]

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


def run_model(path: Path, inputs: Sequence[Array], extra: Sequence[str] = ()) -> Feeds:
    """Run a model and return its outputs, and selected inner values, by name.

    Args:
        path: a fake-quant, deploy or inter model. The Ascend dialect runs in onnx's reference
            evaluator, all else in ONNX Runtime on the CPU.
        inputs: one array for each graph input without a default, in order.
        extra: names of inner values to return too.
    Returns:
        arrays by name; the model's outputs first.
    Raises:
        ValueError: the number of inputs is not the model's.
    """
    model = onnx.load(path, load_external_data=False)
    names, _ = _interface(model.graph)
    if len(names) != len(inputs):
        raise ValueError(f"{path} takes {len(names)} inputs {names}, got {len(inputs)}")
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(extra) if name not in known
    )
    wanted = [value.name for value in model.graph.output]
    feeds = dict(zip(names, inputs, strict=True))
    nodes = (node for graph in graphs_of(model.graph) for node in graph.node)
    if any(node.op_type.startswith("Ascend") and not node.domain for node in nodes):
        onnx.load_external_data_for_model(model, str(path.parent))
        results = ReferenceEvaluator(model, new_ops=ASCEND_OPERATORS).run(None, feeds)
    else:
        results = _session(model, path).run(None, feeds)
    return dict(zip(wanted, results, strict=True))


def interface(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of a model's inputs without a default, and of its outputs.

    Args:
        path: of an ONNX file.
    Returns:
        both in order; an output may occur twice.
    """
    return _interface(onnx.load(path, load_external_data=False).graph)


def _interface(graph: onnx.GraphProto) -> tuple[list[str], list[str]]:
    defaults = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in defaults]
    return inputs, [value.name for value in graph.output]


def _session(model: onnx.ModelProto, path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # External data is not loaded into the protobuf, which may have at most 2 GiB.
    options.add_session_config_entry(_EXTERNAL_FOLDER, str(path.parent.absolute()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


ASCEND_OPERATORS = [Add, ConvTranspose, MatMul, AscendQuant, AscendDequant, AscendAntiQuant]
"""Implementations for onnx.reference."""
