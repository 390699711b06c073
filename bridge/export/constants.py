"""Reading numbers off a graph: initializers, Constant nodes and reshapes of them."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

Array = np.ndarray


def constant(value: ir.Value | None) -> Array | None:
    """Return the array a value always has, or None if it depends on the model's input.

    Args:
        value: an initializer, the output of a Constant, or what shape operators and Clip make of
            one.
    Returns:
        the array, or None.
    """
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    node = value.producer()
    if node is None or (node.op_type != "Clip" and node.op_type not in RESHAPES):
        return None
    inner = constant(node.inputs[0])
    if inner is None:
        return None
    move = _clip(node) if node.op_type == "Clip" else RESHAPES[node.op_type](node)
    return None if move is None else move(inner)


def root(value: ir.Value) -> ir.Value:
    """Follow a value back through Identity and shape operators to where its data comes from.

    Args:
        value: any value.
    Returns:
        the first value that such an operator does not produce.
    """
    node = value.producer()
    while node is not None and node.op_type in RESHAPES:
        value = _first(node)
        node = value.producer()
    return value


def reshaper(node: ir.Node) -> Callable[[Array], Array] | None:
    """Return what a shape operator does to an array, or None if it depends on the input.

    Args:
        node: any node.
    Returns:
        a function on arrays of the node's input shape.
    """
    return RESHAPES[node.op_type](node) if node.op_type in RESHAPES else None


def _clip(node: ir.Node) -> Callable[[Array], Array] | None:
    """Return what a Clip does with both ends constant, as Brevitas narrows the range of weights."""
    if len(node.inputs) < 3:
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
    sizes = [int(s) for s in shape]
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
    return lambda array: np.expand_dims(array, tuple(int(a) for a in axes))


def _squeeze(node: ir.Node) -> Callable[[Array], Array] | None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return np.squeeze
    axes = constant(node.inputs[1])
    if axes is None:
        return None
    return lambda array: np.squeeze(array, tuple(int(a) for a in axes))


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
