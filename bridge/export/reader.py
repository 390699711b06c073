"""The one reader of QDQ graphs: finds quantized layers and states what each computes.

    x -> QuantizeLinear -> DequantizeLinear ---------\
    w -> (QuantizeLinear ->) DequantizeLinear -> ... -> Conv | ConvTranspose | Gemm | MatMul -> y
    bias, float or dequantized int32 ----------------/

The dots are reshapes and transpositions. An Add of a constant after MatMul is its bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, constant, reshaper
from bridge.export.errors import ConversionError
from bridge.export.layer_names import layer_name
from bridge.export.norm import Norm, read_norm

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and every sum of integers in any order, is exact in float32."""

_INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLayer:
    """What a quantized operator in a graph computes.

        acc = op(x_q - zero_point_x, weight) + bias
        y = float32(acc) * (scale_x * scale_w * factor) + shift

    Args:
        name: module path.
        op: "Conv", "ConvTranspose" or "MatMul" (Gemm reads as MatMul).
        node: the float operator.
        output: the value the layer produces.
        x_q: the quantized input, int8, uint8, int16 or uint16.
        scale_x: float32 scalar.
        zero_point_x: scalar of x_q's dtype.
        weight_source: name of the value the weight comes from; layers that share it are tied.
        weight: int8, as the operator takes it; (in, out) for MatMul.
        scale_w: float32 (out,) or (1,).
        bias: int32 (out,), or None.
        norm: the BatchNormalization that is folded into factor and shift, or None.
        moved: float32, the rescale to use instead of the product, or None (bridge.export.chains).
        attributes: the operator's own (strides, pads, group, ...).
        groups: groups of a convolution.
    """

    name: str
    op: str
    node: ir.Node
    output: ir.Value
    x_q: ir.Value
    scale_x: np.float32
    zero_point_x: Array
    weight_source: str
    weight: Array
    scale_w: Array
    bias: Array | None
    norm: Norm | None
    moved: Array | None = None
    attributes: dict[str, Any]
    groups: int

    @property
    def rescale(self) -> Array:
        """float32 (out,) or (1,): scale_x * scale_w, times the folded factor; or moved."""
        if self.moved is not None:
            return self.moved
        scale = self.scale_x * self.scale_w
        return scale if self.norm is None else (scale * self.norm.factor).astype(np.float32)

    @property
    def wide(self) -> bool:
        """Whether the input has 16 bits."""
        return self.zero_point_x.dtype.itemsize > 1

    @property
    def input_reach(self) -> int:
        """Largest |x_q - zero_point_x|."""
        info, zero = np.iinfo(self.zero_point_x.dtype), int(self.zero_point_x)
        return max(info.max - zero, zero - info.min)

    @property
    def weight_reach(self) -> int:
        """Largest sum of |weight| over what one output element can see."""
        return int(self._channels_first().sum(axis=1).max())

    @property
    def accumulator_bounds(self) -> Array:
        """int64 (out,): largest |acc| any input can cause."""
        sums = self._channels_first().sum(axis=1) * self.input_reach
        return sums if self.bias is None else sums + np.abs(self.bias.astype(np.int64))

    @property
    def accumulator_bound(self) -> int:
        """Largest |acc| any input can cause, over all channels."""
        return int(self.accumulator_bounds.max())

    @property
    def proven(self) -> bool:
        """Whether float32 sums of this layer are exact for every input."""
        return self.accumulator_bound < EXACT_FLOAT32

    def _channels_first(self) -> Array:
        magnitude = np.abs(self.weight.astype(np.int64))
        return channels_first(magnitude, self.op, self.groups)


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
        (name, node) pairs in topological order; the second use of a name is NAME#2.
    """
    names: dict[str, int] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            name = _name(node)
            names[name] = names.get(name, 0) + 1
            yield name if names[name] == 1 else f"{name}#{names[name]}", node


def channels_first(weight: Array, op: str, groups: int) -> Array:
    """Lay a weight out as (out, everything one output element sees).

    Args:
        weight: in the operator's own layout.
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: groups of a convolution.
    Returns:
        a 2-D view or copy.
    """
    if op == "MatMul":
        return weight.T
    if op == "Conv":
        return weight.reshape(weight.shape[0], -1)
    per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return per_group.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


class NotQuantizedError(Exception):
    """Control flow between the readers: the operator stays float, with the reason."""


def _name(node: ir.Node) -> str:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    weight = node.inputs[1]
    return layer_name(node, None if weight is None else _behind_pairs(weight), bias)


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
    weight, scales = _read_weight(node.inputs[1], name)
    op = "MatMul" if node.op_type == "Gemm" else node.op_type
    groups = _int_attribute(node, "group", 1)
    if node.op_type == "Gemm":
        _check_gemm(node)
        if _int_attribute(node, "transB", 0):
            weight, scales = weight.T, scales.T
    if op == "MatMul" and weight.ndim != 2:
        raise NotQuantizedError(f"its weight has rank {weight.ndim}, not 2")
    scale_w = _per_channel(scales, op, groups)
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
    limit = _INT32_MAX if not layer.wide else (1 << 53)
    if layer.accumulator_bound > limit:
        raise ConversionError(
            f"layer {name!r}: sums can reach {layer.accumulator_bound}, beyond the accumulator's "
            f"{limit}; use smaller clips, fewer input channels or a smaller bias"
        )
    return layer


def read_activation(node: ir.Node, index: int, name: str) -> tuple[ir.Value, np.float32, Array]:
    """Read the pair on an operator's input.

    Args:
        node: the operator.
        index: which input.
        name: what to call the operator in a message.
    Returns:
        the quantized value, its scale and its zero point.
    Raises:
        NotQuantizedError: the input is not quantized in a form that can be converted.
        ConversionError: its scale is not positive and finite.
    """
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        raise NotQuantizedError("its input is not dequantized")
    x_q = producer.inputs[0]
    scale, zero_point = _scale_and_zero_point(producer, name)
    if x_q is None or scale.size != 1:
        raise NotQuantizedError("its input is not quantized per tensor")
    if constant(x_q) is not None:
        raise NotQuantizedError("its input is a constant")
    if zero_point.dtype.kind not in "iu" or zero_point.dtype.itemsize > 2:
        raise NotQuantizedError(f"its input is quantized to {zero_point.dtype}, not 8 or 16 bits")
    return x_q, np.float32(scale.reshape(())), zero_point.reshape(())


def _read_weight(value: ir.Value | None, name: str) -> tuple[Array, Array]:
    """Return the int8 weight and its scale, broadcast to the weight's shape."""
    producer = None if value is None else value.producer()
    if producer is None:
        raise NotQuantizedError("its weight is not quantized")
    if producer.op_type != "DequantizeLinear":
        move = reshaper(producer)
        if move is None:
            raise NotQuantizedError("its weight is not quantized")
        weight, scales = _read_weight(producer.inputs[0], name)
        return move(weight), move(np.broadcast_to(scales, weight.shape))
    integers, scale, zero_point = read_stored(producer, name)
    if zero_point.dtype == np.uint8 and (zero_point == 128).all():
        integers, zero_point = (integers.astype(np.int16) - 128).astype(np.int8), zero_point * 0
    if integers.dtype != np.int8:
        raise NotQuantizedError(f"its weight is quantized to {integers.dtype}, not int8")
    if (zero_point != 0).any():
        raise NotQuantizedError("its weight has a zero point")
    return integers, np.broadcast_to(scale, integers.shape)


def read_stored(node: ir.Node, name: str) -> tuple[Array, Array, Array]:
    """Read the DequantizeLinear of a constant.

    Args:
        node: the DequantizeLinear.
        name: what to call its reader in a message.
    Returns:
        integers, and the scales and zero points in shapes that broadcast to theirs.
    Raises:
        NotQuantizedError: what it dequantizes is not constant, or quantized in blocks.
        ConversionError: a scale is not positive and finite, or the constant is not finite.
    """
    scale, zero_point = _scale_and_zero_point(node, name)
    if _int_attribute(node, "block_size", 0):
        raise NotQuantizedError("its weight is quantized in blocks")
    axis = _int_attribute(node, "axis", 1)
    integers = _integer_weight(node.inputs[0], name)
    rank = integers.ndim
    return integers, _on_axis(scale, axis, rank), _on_axis(zero_point, axis, rank)


def _integer_weight(value: ir.Value | None, name: str) -> Array:
    stored = constant(value)
    if stored is not None:
        return stored
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "QuantizeLinear":
        raise NotQuantizedError("its weight is not constant")
    weight = constant(producer.inputs[0])
    if weight is None:
        raise NotQuantizedError("its weight is not constant")
    if not np.isfinite(weight).all():
        raise ConversionError(f"layer {name!r}: its weight has NaN or infinite values")
    scale, zero_point = _scale_and_zero_point(producer, name)
    axis = _int_attribute(producer, "axis", 1)
    info = np.iinfo(zero_point.dtype)
    q = np.rint(weight / _on_axis(scale, axis, weight.ndim))
    q += _on_axis(zero_point, axis, weight.ndim)
    return np.clip(q, info.min, info.max, out=q).astype(zero_point.dtype)


def _scale_and_zero_point(node: ir.Node, name: str) -> tuple[Array, Array]:
    scale = constant(node.inputs[1])
    if scale is None:
        raise NotQuantizedError(f"the scale of {node.op_type} {node.name!r} is not constant")
    if scale.dtype != np.float32:
        raise NotQuantizedError(f"the scale of {node.name!r} is {scale.dtype}, not float32")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ConversionError(
            f"layer {name!r}: the scale of {node.op_type} {node.name!r} must be positive and "
            f"finite, got {scale.ravel()[:4]}"
        )
    if len(node.inputs) < 3 or node.inputs[2] is None:
        dtype = _dtype_without_zero_point(node)
        return scale, np.zeros(scale.shape, dtype)
    zero_point = constant(node.inputs[2])
    if zero_point is None:
        raise NotQuantizedError(f"the zero point of {node.op_type} {node.name!r} is not constant")
    return scale, zero_point


def _dtype_without_zero_point(node: ir.Node) -> np.dtype[Any]:
    if node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
        stored = constant(node.inputs[0])
        if stored is not None:
            return stored.dtype
        if node.inputs[0].dtype is not None:
            return np.dtype(node.inputs[0].dtype.numpy())
    return np.dtype(np.uint8)  # QuantizeLinear's default


def _on_axis(values: Array, axis: int, rank: int) -> Array:
    if values.size == 1:
        return values.reshape((1,) * rank)
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


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
    if _int_attribute(node, "transA", 0):
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
            raise NotQuantizedError("its bias is not constant")
        if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] != bias.size):
            raise NotQuantizedError(f"its bias has shape {bias.shape}, not one value a channel")
        return output, np.broadcast_to(bias.ravel(), (channels,))
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        bias = _float_bias(add.inputs[1 - uses[0].idx])
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
    rounded = np.rint(bias.astype(np.promote_types(bias.dtype, np.float32)) / rescale)
    worst = np.abs(rounded).max(initial=0.0)
    if not worst <= _INT32_MAX:  # NaN too
        raise ConversionError(
            f"layer {name!r}: bias / (scale_x * scale_w) must fit int32, got up to {worst:.4g}; "
            "the scale of a channel is too small for its bias"
        )
    return rounded.astype(np.int64).clip(-_INT32_MAX, _INT32_MAX).astype(np.int32)


def _int_attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
