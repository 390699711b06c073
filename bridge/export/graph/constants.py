"""Constant values of a graph: initializers, Constant nodes, and shape operators on them."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.graph.errors import ConversionError

Array = np.ndarray


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of a constant value, or None if it depends on the model's inputs.

    An initializer that is also a graph input is not constant: the caller may override it.

    Args:
        value: an initializer, the output of a Constant, or either of them through shape operators
            and a Clip with constant limits.
    Returns:
        the array, or None.
    Raises:
        ConversionError: the data does not fit its shape, or a shape operator does not fit its
            input.
    """
    moves: list[Callable[[Array], Array]] = []
    while value is not None and not value.is_graph_input():
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            array = array_of(tensor, value.name)
            for move in reversed(moves):
                array = move(array)
            return array
        node = value.producer()
        move = None if node is None else _clip(node) or reshaper(node)
        if node is None or move is None:
            return None
        moves.append(move)
        value = node.inputs[0]
    return None


def array_of(tensor: ir.TensorProtocol, name: str | None) -> Array:
    """Return the data of a tensor.

    Args:
        tensor: from a file, not yet checked.
        name: of its value, for the message.
    Returns:
        the array.
    Raises:
        ConversionError: the data does not fit the tensor's shape or data type.
    """
    try:
        return tensor.numpy()
    except (ValueError, TypeError) as error:
        raise ConversionError(
            f"the data of {name!r} is not {tensor.dtype.name}{tensor.shape}: {error}"
        ) from error


def name_of(node: ir.Node) -> str:
    """Return the name of a node, for messages.

    Args:
        node: any node; names are optional in ONNX.
    Returns:
        its name, else that of its first output, else its operator.
    """
    return node.name or node.outputs[0].name or node.op_type


def describe(node: ir.Node) -> str:
    """Return the operator and the name of a node, for messages.

    Args:
        node: any node; names are optional in ONNX.
    Returns:
        such as "Conv 'conv1'".
    """
    return f"{node.op_type} {name_of(node)!r}"


def data_source(value: ir.Value) -> ir.Value:
    """Return the value that Identity and shape operators derive another one from.

    Args:
        value: any value.
    Returns:
        the input of the first of these operators; the value itself if none produces it.
    """
    node = value.producer()
    while node is not None and node.op_type in RESHAPES:
        value = _first(node)
        node = value.producer()
    return value


def reshaper(node: ir.Node) -> Callable[[Array], Array] | None:
    """Return a shape operator as a function on arrays.

    Args:
        node: any node.
    Returns:
        the function, which raises ConversionError for an array that the operator does not fit;
        None for other operators, and if the shape or axes are not constant.
    """
    move = RESHAPES[node.op_type](node) if node.op_type in RESHAPES else None
    if move is None:
        return None

    def checked(array: Array) -> Array:
        try:
            return move(array)
        except (ValueError, IndexError) as error:  # AxisError is both
            raise ConversionError(
                f"{node.op_type} {name_of(node)!r} does not fit its input of shape {array.shape}: "
                f"{error}"
            ) from error

    return checked


def _clip(node: ir.Node) -> Callable[[Array], Array] | None:
    """Return a Clip with two constant limits, which Brevitas writes to narrow weights."""
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    low, high = constant(node.inputs[1]), constant(node.inputs[2])
    return None if low is None or high is None else lambda array: np.clip(array, low, high)


def _identity(_: ir.Node) -> Callable[[Array], Array]:
    return lambda array: array


def _transpose(node: ir.Node) -> Callable[[Array], Array]:
    perm = node.attributes.get("perm")
    axes = None if perm is None else list(perm.as_ints())
    return lambda array: np.transpose(array, axes)


def _reshape(node: ir.Node) -> Callable[[Array], Array] | None:
    shape = constant(node.inputs[1])
    if shape is None:
        return None
    sizes = [int(s) for s in shape.ravel()]
    if "allowzero" in node.attributes and node.attributes["allowzero"].as_int():
        return lambda array: array.reshape(sizes)
    return lambda array: array.reshape(
        [array.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    )


def _flatten(node: ir.Node) -> Callable[[Array], Array]:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return lambda array: array.reshape(int(np.prod(array.shape[:axis])), -1)


def _unsqueeze(node: ir.Node) -> Callable[[Array], Array] | None:
    axes = constant(node.inputs[1])
    if axes is None:
        return None
    return lambda array: np.expand_dims(array, tuple(int(a) for a in axes.ravel()))


def _squeeze(node: ir.Node) -> Callable[[Array], Array] | None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return np.squeeze
    axes = constant(node.inputs[1])
    if axes is None:
        return None
    return lambda array: np.squeeze(array, tuple(int(a) for a in axes.ravel()))


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise ValueError(f"node {node.name!r} ({node.op_type}) has no first input")
    return value


RESHAPES: dict[str, Callable[[ir.Node], Callable[[Array], Array] | None]] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
}
