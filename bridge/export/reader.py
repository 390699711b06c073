"""The one reader of QDQ graphs: finds quantized layers and states what each computes.

    x -> QuantizeLinear -> DequantizeLinear ---------\
    w -> (QuantizeLinear ->) DequantizeLinear -> ... -> Conv | ConvTranspose | Gemm | MatMul -> y
    bias, float or dequantized int32 ----------------/

The dots are reshapes and transpositions. An Add of a constant after MatMul is its bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, constant, reshaper
from bridge.export.errors import ConversionError
from bridge.export.layer import QuantizedLayer, channels_first
from bridge.export.layer_names import UniqueNames, layer_name, tied_name
from bridge.export.norm import read_norm
from bridge.export.pairs import (
    NotQuantizedError,
    int_attribute,
    not_constant,
    read_activation,
    read_weight,
)

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class FloatOperator:
    """An operator that stays in float, and why."""

    name: str
    op: str
    reason: str


def read_layers(
    graph: ir.Graph, *, fold_batch_norm: bool = False
) -> tuple[list[QuantizedLayer], list[FloatOperator]]:
    """Find the quantized layers of a graph.

    Args:
        graph: the main graph of a QDQ model.
        fold_batch_norm: take a BatchNormalization behind a layer as a part of it.
    Returns:
        the layers in topological order, and the operators that could be layers but stay float.
    Raises:
        ConversionError: a layer has a scale or bias that no integer model can have.
    """
    layers: list[QuantizedLayer] = []
    floats: list[FloatOperator] = []
    for name, node in named_operators(graph):
        try:
            if node.graph is not graph:
                raise NotQuantizedError("it is inside the subgraph of a control-flow operator")
            layers.append(_read_layer(node, name, fold_batch_norm))
        except NotQuantizedError as reason:
            floats.append(FloatOperator(name, node.op_type, str(reason)))
    return layers, floats


def named_operators(graph: ir.Graph) -> Iterator[tuple[str, ir.Node]]:
    """Iterate over the operators that can be quantized, subgraphs included, with unique names.

    Args:
        graph: the main graph.
    Returns:
        (name, node) pairs in topological order; the second use of a name is NAME#2, unless the
        file says that another layer has the same weight.
    """
    found = [
        (_name(node), node)
        for node in ir.traversal.RecursiveGraphIterator(graph)
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx")
    ]
    named = {name for name, _ in found}
    given = UniqueNames()
    for name, node in found:
        tied = tied_name(node, _bias_of(node), name) if name in given else name
        yield given.give(name if tied in named or tied in given else tied), node


def _name(node: ir.Node) -> str:
    weight = node.inputs[1]
    return layer_name(node, None if weight is None else _behind_pairs(weight), _bias_of(node))


def _bias_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _behind_pairs(value: ir.Value) -> ir.Value:
    """Follow a value back through its Q/DQ pair and the shape operators around it."""
    while True:
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return value
        if node.op_type == "Identity" and constant(value) is not None:
            return value
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and reshaper(node) is None:
            return value
        value = node.inputs[0]


def _read_layer(node: ir.Node, name: str, fold_batch_norm: bool) -> QuantizedLayer:
    x_q, scale_x, zero_point_x = read_activation(node, 0, name)
    weight, scales = read_weight(node.inputs[1], name)
    if not weight.size:
        raise NotQuantizedError(f"its weight has no elements, its shape is {weight.shape}")
    op = "MatMul" if node.op_type == "Gemm" else node.op_type
    groups = int_attribute(node, "group", 1)
    if node.op_type == "Gemm":
        _check_gemm(node)
        if int_attribute(node, "transB", 0):
            weight, scales = weight.T, scales.T
    if op == "MatMul" and weight.ndim != 2:
        raise NotQuantizedError(f"its weight has rank {weight.ndim}, not 2")
    _check_groups(weight, op, groups, name)
    scale_w = _per_channel(scales, op, groups)
    check_product(scale_x, scale_w, name)
    output, bias = _read_bias(node, len(channels_first(weight, op, groups)))
    last = node.op_type == "MatMul"
    norm = read_norm(output, channels_last=last) if fold_batch_norm else None
    layer = QuantizedLayer(
        name=name,
        op=op,
        node=node,
        output=output if norm is None else norm.output,
        x_q=x_q,
        scale_x=scale_x,
        zero_point_x=zero_point_x,
        weight_source=_behind_pairs(node.inputs[1]).name or "" if node.inputs[1] else "",
        weight=np.ascontiguousarray(weight),
        scale_w=scale_w,
        bias=None if bias is None else _integer_bias(bias, scale_x * scale_w, name),
        norm=norm,
        attributes={} if op == "MatMul" else {k: a.value for k, a in node.attributes.items()},
        groups=groups,
    )
    if not np.isfinite(layer.rescale).all():
        raise ConversionError(
            f"layer {name!r}: scale_x * scale_w times the factor of its BatchNormalization is "
            "beyond float32"
        )
    limit = _INT32_MAX if not layer.wide else (1 << 53)
    if layer.accumulator_bound > limit:
        raise ConversionError(
            f"layer {name!r}: sums can reach {layer.accumulator_bound}, beyond the accumulator's "
            f"{limit}; use smaller clips, fewer input channels or a smaller bias"
        )
    return layer


def _check_groups(weight: Array, op: str, groups: int, name: str) -> None:
    """Raise unless a convolution's weight has the rank and the channels of its groups."""
    if op == "MatMul":
        return
    if weight.ndim < 3 or groups < 1 or weight.shape[0] % groups:
        raise ConversionError(
            f"layer {name!r}: a weight of shape {weight.shape} is no {op}'s in {groups} groups"
        )


def check_product(scale_x: np.float32, scale_w: Array, name: str) -> None:
    """Raise unless one step of the sums is a float32 above zero.

    Args:
        scale_x: of the input.
        scale_w: of the weight, or of the other input.
        name: of the layer.
    Raises:
        ConversionError: a product of the two is 0 or infinite.
    """
    with np.errstate(over="ignore", under="ignore"):
        product = scale_x * scale_w
    if not (np.isfinite(product) & (product > 0)).all():
        raise ConversionError(
            f"layer {name!r}: scale_x * scale_w must be positive and finite in float32, got "
            f"{scale_x:.4g} * {scale_w[~(np.isfinite(product) & (product > 0))][0]:.4g}"
        )


def _per_channel(scales: Array, op: str, groups: int) -> Array:
    rows = channels_first(scales, op, groups)
    if (rows != rows[:, :1]).any():
        raise NotQuantizedError("its weight scale varies within an output channel")
    per_channel = np.ascontiguousarray(rows[:, 0])
    return per_channel[:1] if (per_channel == per_channel[0]).all() else per_channel


def _check_gemm(node: ir.Node) -> None:
    for name in ("alpha", "beta"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.as_float() != 1.0:
            raise NotQuantizedError(f"its {name} is {attribute.as_float()}, not 1")
    if int_attribute(node, "transA", 0):
        raise NotQuantizedError("its input is transposed (transA)")


def _read_bias(node: ir.Node, channels: int) -> tuple[ir.Value, Array | None]:
    """Return the layer's output and its float bias, which may be an Add behind a MatMul."""
    output = node.outputs[0]
    if node.op_type != "MatMul":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None:
            return output, None
        bias = _float_bias(value)
        if bias is None:
            raise NotQuantizedError(f"its bias {not_constant(value)}")
        if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
            raise NotQuantizedError(f"its bias has shape {bias.shape}, not one value a channel")
        return output, np.broadcast_to(bias.ravel(), (channels,))
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        # In a subgraph it may not run, or run many times.
        bias = _float_bias(add.inputs[1 - uses[0].idx]) if add.graph is node.graph else None
        if bias is not None and bias.dtype.kind == "f" and bias.shape == (channels,):
            return add.outputs[0], bias
    return output, None


def _float_bias(value: ir.Value | None) -> Array | None:
    stored = constant(value)
    if stored is not None or value is None:
        return stored
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    integers, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
    if integers is None or scale is None or integers.dtype != np.int32:
        return None
    zero_point = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    if zero_point is not None and (zero_point != 0).any():
        return None
    # In float64, so that integers on the accumulator's own scale come through as they are.
    return integers.astype(np.float64) * scale


def _integer_bias(bias: Array, rescale: Array, name: str) -> Array:
    with np.errstate(over="ignore"):
        rounded = np.rint(bias.astype(np.promote_types(bias.dtype, np.float32)) / rescale)
    worst = np.abs(rounded).max(initial=0.0)
    if not worst <= _INT32_MAX:  # NaN too
        raise ConversionError(
            f"layer {name!r}: bias / (scale_x * scale_w) must fit int32, got up to {worst:.4g}; "
            "the scale of a channel is too small for its bias"
        )
    return rounded.astype(np.int64).clip(-_INT32_MAX, _INT32_MAX).astype(np.int32)
