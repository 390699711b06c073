"""Checks that a file is a valid ONNX model, with three exceptions that runtimes accept.

onnx.checker refuses nodes that are not topologically sorted, inputs and outputs without a shape,
and external data that is a symbolic link. These are repaired in a copy, which is then checked;
symbolic links only where the caller allows them.
"""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from bridge.export.graph.errors import ConversionError
from bridge.export.graph.protos import graphs_of

MAX_INLINED_NODES = 200_000
"""Most nodes that a model may have when its functions are inlined."""


def sort_nodes(path: Path, model: ir.Model) -> bool:
    """Sort the nodes of a model topologically, unless they are sorted.

    Args:
        path: of its file, for the message.
        model: it is changed.
    Returns:
        whether the nodes were not sorted.
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
    """Raise unless a model is valid, apart from what this module repairs.

    Args:
        path: of its file.
        proto: the model as it is in the file, without its external data.
        model: the same as onnx_ir's model; its nodes get sorted.
        linked: whether external data may be symbolic links, which onnx.checker refuses.
    Raises:
        ConversionError: the model is not valid.
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
    """Raise if a model has too many nodes when its functions are inlined.

    Args:
        path: of its file, for the message.
        model: a valid model, whose functions do not call themselves.
    Raises:
        ConversionError: there are more than MAX_INLINED_NODES.
    """
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def size(nodes: Iterable[ir.Node]) -> int:
        total = 0
        for node in nodes:
            callee = model.functions.get(node.op_identifier())
            total += 1 if callee is None else size_of(callee)
        return total

    def size_of(function: ir.Function) -> int:
        # The recursion ends: onnx.checker refuses calls that are nested more than 100 deep.
        key = function.identifier()
        if key not in sizes:
            sizes[key] = size(ir.traversal.RecursiveGraphIterator(function))
        return sizes[key]

    if model.functions:
        nodes = size(ir.traversal.RecursiveGraphIterator(model.graph))
        if nodes > MAX_INLINED_NODES:
            raise ConversionError(
                f"{path}: its functions have {nodes:.3g} nodes when inlined, more than the "
                f"limit of {MAX_INLINED_NODES}"
            )


def cause(error: BaseException) -> str:
    """Return the message of the first error in a chain, on one line.

    Args:
        error: an error of onnx_ir, which wraps errors once for every level of the file.
    Returns:
        the message, else the type, of the innermost cause.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.HasField("tensor_type")
    return not tensor or value.type.tensor_type.HasField("shape")


def _repaired(proto: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto:
    """Copy a model with sorted nodes, a shape for each input and output, and no external data."""
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
