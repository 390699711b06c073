"""Shapes of a model's values by shape inference, and the multiply-accumulates of operators."""

import contextlib
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants

_MOST_FOLDED = 1024
"""Elements of the largest constant that is folded; shapes and axes have few."""

_MATRIX_RANK = 2
"""Only values of a higher rank have their channels on axis 1."""

Sizes = Mapping[str, tuple[int, ...]]
"""Shapes by the names of values; values of unknown shape are absent."""


def dynamic_inputs(model: ir.Model) -> list[ir.Value]:
    """List the inputs of a model whose shape is not static.

    Args:
        model: from normalize.model.read_model.
    Returns:
        inputs with a symbolic or unknown dimension, and sequences.
    """
    values = [value for value in model.graph.inputs if value.const_value is None]
    return [value for value in values if _static_shape(value) is None]


def infer_sizes(model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Sizes:
    """Infer the shapes of a model's values by shape inference and constant folding.

    Args:
        model: from normalize.model.read_model; it is not changed.
        input_shapes: shapes of dynamic inputs, by name.
    Returns:
        the shape of every value of the main graph whose dimensions are all known.
    Raises:
        ValueError: there is no such input, or a shape contradicts the model's.
    """
    copy = model.clone()
    inputs = {value.name: value for value in copy.graph.inputs}
    symbols: dict[str, int] = {}
    for name, sizes in (input_shapes or {}).items():
        if name not in inputs:
            raise ValueError(f"input_shapes: there is no input {name!r}, but {list(inputs)}")
        symbols |= _symbol_sizes(inputs[name], sizes)
        inputs[name].shape = ir.Shape(sizes)
    values = [*inputs.values(), *(value for node in copy.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_known_dim(dim, symbols) for dim in value.shape])
    found = _infer(copy)
    if len(found) < len(values) + len(copy.graph.initializers):
        # Exporters compute shapes from Shape nodes: with the inferred shapes these are constants.
        _set_shapes(copy, found)
        folded = copy.clone()
        with contextlib.suppress(RuntimeError):  # a node that cannot be folded stays unknown
            fold_constants(folded, onnx_shape_inference=True, should_fold=_is_small)
        _set_shapes(copy, found | _infer(folded))
        found = _infer(copy)
    return found


def _set_shapes(model: ir.Model, sizes: Sizes) -> None:
    """Set the shapes of inner values to those that are known, and clear all others."""
    for node in model.graph:
        for value in node.outputs:
            known = sizes.get(value.name or "")
            if known is not None:
                value.shape = ir.Shape(known)
            elif not value.is_graph_output():
                value.shape = None


def _is_small(node: ir.Node) -> bool:
    sizes = [_static_shape(v) for v in [*node.inputs, *node.outputs] if v is not None]
    return all(one is not None and math.prod(one) <= _MOST_FOLDED for one in sizes)


def _infer(model: ir.Model) -> dict[str, tuple[int, ...]]:
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    graph = model.graph
    values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    named = {v.name or "": _static_shape(v) for v in [*values, *graph.initializers.values()]}
    return {name: sizes for name, sizes in named.items() if sizes is not None}


def with_shapes(model: ir.Model) -> ir.Model:
    """Return a model whose values are annotated with the shapes that shape inference finds.

    ONNX Runtime chooses kernels by rank and channels, and cannot infer them through the nodes that
    a layer is lowered to.

    Args:
        model: from normalize.model.read_model; it is not changed.
    Returns:
        a model with the same nodes; dimensions that the file states are kept.
    """
    known, inferred = model.clone(), model.clone()
    infer = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer(inferred)
    if _annotate_channels(inferred):
        infer(inferred)
    # With ceil_mode, onnx also counts windows that start after the input; runtimes do not.
    rounds_up = any(map(_rounds_up, ir.traversal.RecursiveGraphIterator(model.graph)))
    for graph, other in zip(known.graphs(), inferred.graphs(), strict=True):
        for node, twin in zip(graph, other, strict=True):
            for value, found in zip(node.outputs, twin.outputs, strict=True):
                if not value.is_graph_output():
                    shape = _channels(found.shape) if rounds_up else found.shape
                    value.shape = _filled(value.shape, shape)
                    value.type = value.type or found.type
    return known


def _channels(shape: ir.Shape | None) -> ir.Shape | None:
    """Keep the rank and the channels of a shape, and drop its spatial dimensions."""
    if shape is None or len(shape) <= _MATRIX_RANK:
        return None
    return ir.Shape([None, shape[1], *[None] * (len(shape) - 2)])


def _rounds_up(node: ir.Node) -> bool:
    ceil_mode = node.attributes.get("ceil_mode")
    return ceil_mode is not None and ceil_mode.value == 1


def _annotate_channels(model: ir.Model) -> bool:
    """Annotate rank and channels of convolutions of unknown input rank; return whether any was."""
    before = [
        node.outputs[0]
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.op_type in ("Conv", "ConvTranspose") and node.outputs[0].shape is None
    ]
    for value in before:
        node = value.producer()
        weight = None if node is None else node.inputs[1]
        if node is None or weight is None or weight.shape is None or len(weight.shape) < 2:
            continue
        channels: int | ir.SymbolicDim | None = weight.shape[0]
        if node.op_type == "ConvTranspose":
            groups, each = node.attributes.get("group"), weight.shape[1]
            channels = (
                each * (1 if groups is None else groups.as_int()) if isinstance(each, int) else None
            )
        value.shape = ir.Shape([None, channels, *[None] * (len(weight.shape) - 2)])
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    return any(value.shape is not None for value in before)


def _filled(shape: ir.Shape | None, found: ir.Shape | None) -> ir.Shape | None:
    """Fill the unknown dimensions of a shape from another one of the same rank."""
    if shape is None or found is None or len(shape) != len(found):
        return shape or found
    pairs = zip(shape, found, strict=True)
    return ir.Shape([b if isinstance(b, int) and not isinstance(a, int) else a for a, b in pairs])


def macs_per_position(node: ir.Node, sizes: Sizes) -> int | None:
    """Count the multiply-accumulates of an operator for one position, over all channels.

    A position is an output pixel of Conv, an input pixel of ConvTranspose, and a row of Gemm and
    MatMul.

    Args:
        node: a Conv, ConvTranspose, Gemm or MatMul.
        sizes: shapes by the names of values.
    Returns:
        their number, None if the weight's shape is not known.
    """
    weight = sizes.get(_name(node, 1))
    if weight is None:
        return None
    return math.prod(weight[-2:] if node.op_type == "MatMul" else weight)


def macs(node: ir.Node, sizes: Sizes) -> int | None:
    """Count the multiply-accumulates of an operator, including those with padding.

    Args:
        node: a Conv, ConvTranspose, Gemm or MatMul.
        sizes: shapes by the names of values.
    Returns:
        their number, None if a shape is not known.
    """
    one = macs_per_position(node, sizes)
    many = _positions(node, sizes)
    return None if one is None or many is None else one * many


def _positions(node: ir.Node, sizes: Sizes) -> int | None:
    transposed = node.op_type == "ConvTranspose"
    shape = sizes.get(_name(node, 0) if transposed else node.outputs[0].name or "")
    if shape is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return math.prod(shape[:1] + shape[2:])
    # A MatMul with a vector on the right has no output axis for its column.
    return math.prod(shape if len(sizes.get(_name(node, 1), ())) == 1 else shape[:-1])


def _name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return "" if value is None else value.name or ""


def _symbol_sizes(value: ir.Value, sizes: Sequence[int]) -> dict[str, int]:
    """Return the sizes of the symbolic dimensions of a shape, by their names."""
    dims = list(value.shape or ())
    fits = len(dims) == len(sizes) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(dims, sizes, strict=True)
    )
    if not fits or any(size < 1 for size in sizes):
        raise ValueError(
            f"input_shapes: input {value.name!r} has the shape {value.shape}, got {tuple(sizes)}"
        )
    return {
        dim.value: size
        for dim, size in zip(dims, sizes, strict=True)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }


def _known_dim(dim: int | ir.SymbolicDim, symbols: Mapping[str, int]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    # Expressions of a symbol, such as N + 1, are inferred again.
    return symbols.get(dim.value, dim if not symbols else ir.SymbolicDim(None))


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    if value.shape is None:
        return None
    dims = [dim for dim in value.shape if isinstance(dim, int)]
    return tuple(dims) if len(dims) == len(value.shape) else None
