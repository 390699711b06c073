"""Whether a file is a valid ONNX model, and what runtimes take although onnx.checker does not.

Nodes that are not topologically sorted are sorted; inputs and outputs may leave out their shape;
external data may be reached by symbolic links, where the caller allows it. These three are repaired
in a copy, and the copy is checked.
"""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from bridge.export.graph.errors import ConversionError
from bridge.export.graph.protos import graphs_of

MAX_INLINED_NODES = 200_000
"""How many nodes a model may have once its functions are inlined."""


def sort_nodes(path: Path, model: ir.Model) -> bool:
    """Sort the nodes of a model topologically where they are not.

    Args:
        path: of its file, for messages.
        model: the model; it is changed.
    Returns:
        whether it was not sorted.
    Raises:
        ConversionError: a node depends on its own output.
    """
    seen: set[ir.Node] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        makers = [value.producer() for value in node.inputs if value is not None]
        if any(maker is not None and maker not in seen for maker in makers):
            break
        seen.add(node)
    else:
        return False
    try:
        model.graph.sort()
    except ValueError as error:
        raise ConversionError(f"{path} is not a valid ONNX model: {error}") from error
    return True


def check_model(path: Path, proto: onnx.ModelProto, model: ir.Model, *, linked: bool) -> None:
    """Raise unless a model is valid, apart from what is repaired.

    Args:
        path: its file.
        proto: the model as it is in the file, its external data not loaded.
        model: the same, read; its nodes are sorted.
        linked: whether external data may be symbolic links, which onnx.checker refuses.
    Raises:
        ConversionError: it is not.
    """
    unsorted = sort_nodes(path, model)
    shapeless = any(not _has_shape(value) for value in (*proto.graph.input, *proto.graph.output))
    try:
        if unsorted or shapeless or linked:
            onnx.checker.check_model(_repaired(proto, model))
        else:
            onnx.checker.check_model(str(path))
    except Exception as error:
        raise ConversionError(f"{path} is not a valid ONNX model: {cause(error)}") from error


def check_functions(path: Path, model: ir.Model) -> None:
    """Raise where the functions of a model are too many nodes once they are inlined.

    Args:
        path: its file, for messages.
        model: a valid model, whose functions do not call themselves.
    Raises:
        ConversionError: they are more than MAX_INLINED_NODES.
    """
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def size(nodes: Iterable[ir.Node]) -> int:
        total = 0
        for node in nodes:
            callee = model.functions.get(node.op_identifier())
            total += 1 if callee is None else size_of(callee)
        return total

    def size_of(function: ir.Function) -> int:
        # onnx.checker refuses calls that are more than 100 deep.
        key = function.identifier()
        if key not in sizes:
            sizes[key] = size(ir.traversal.RecursiveGraphIterator(function))
        return sizes[key]

    if model.functions:
        nodes = size(ir.traversal.RecursiveGraphIterator(model.graph))
        if nodes > MAX_INLINED_NODES:
            raise ConversionError(
                f"{path}: its functions are {nodes:.3g} nodes once they are inlined, of which "
                f"{MAX_INLINED_NODES} can be converted"
            )


def cause(error: BaseException) -> str:
    """Return what an error comes from, on one line.

    Args:
        error: onnx_ir wraps its errors once for every level of the file.
    Returns:
        the message of the first of them.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.HasField("tensor_type")
    return not tensor or value.type.tensor_type.HasField("shape")


def _repaired(proto: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto:
    """Copy a model sorted, with a shape for every input and output, and without external data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    order = {value.name: i for i, node in enumerate(nodes) for value in node.outputs}
    for value in (*copy.graph.input, *copy.graph.output):
        if not _has_shape(value):
            value.type.tensor_type.shape.SetInParent()
    for graph in graphs_of(copy.graph):
        nodes_in_order = sorted(graph.node, key=lambda node: order.get(_first_output(node), -1))
        del graph.node[:]
        graph.node.extend(nodes_in_order)
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.dims[:], tensor.raw_data = [0], b""
    return copy


def _first_output(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")
