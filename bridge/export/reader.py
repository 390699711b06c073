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

from bridge.export.constants import Array, called, constant, reshaper
from bridge.export.errors import ConversionError
from bridge.export.layer_names import layer_name
from bridge.export.norm import Norm, read_norm

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
EXACT_FLOAT32 = 1 << 24
"""Below this every integer, and every sum of integers in any order, is exact in float32."""

_INT32_MAX = (1 << 31) - 1
_ACTIVATIONS = tuple(map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)))


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
    uses: dict[str, int] = {}
    given: set[str] = set()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            unique = name = _name(node)
            while unique in given:  # a node may be called NAME#2 in the file too
                uses[name] = uses.get(name, 1) + 1
                unique = f"{name}#{uses[name]}"
            given.add(unique)
            yield unique, node


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
    if not weight.size:
        raise NotQuantizedError(f"its weight has no elements, its shape is {weight.shape}")
    op = "MatMul" if node.op_type == "Gemm" else node.op_type
    groups = _int_attribute(node, "group", 1)
    if node.op_type == "Gemm":
        _check_gemm(node)
        if _int_attribute(node, "transB", 0):
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
    scale, zero_point = read_parameters(producer, name)
    if x_q is None or scale.size != 1 or _int_attribute(producer, "block_size", 0):
        raise NotQuantizedError("its input is not quantized per tensor")
    if constant(x_q) is not None:
        raise NotQuantizedError("its input is a constant")
    if zero_point.dtype not in _ACTIVATIONS:
        raise NotQuantizedError(f"its input is quantized to {zero_point.dtype}, not 8 or 16 bits")
    return x_q, np.float32(scale.reshape(())), zero_point.reshape(())


def _read_weight(value: ir.Value | None, name: str) -> tuple[Array, Array]:
    """Return the int8 weight and its scale, broadcast to the weight's shape."""
    moves = []
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type != "DequantizeLinear":
        moves.append(reshaper(producer))
        if moves[-1] is None or producer.inputs[0] is None:
            raise NotQuantizedError("its weight is not quantized")
        producer = producer.inputs[0].producer()
    if producer is None:
        raise NotQuantizedError("its weight is not quantized")
    integers, scale, zero_point = read_stored(producer, name)
    if zero_point.dtype == np.uint8 and (zero_point == 128).all():
        integers, zero_point = (integers.astype(np.int16) - 128).astype(np.int8), zero_point * 0
    if integers.dtype != np.int8:
        raise NotQuantizedError(f"its weight is quantized to {integers.dtype}, not int8")
    if (zero_point != 0).any():
        raise NotQuantizedError("its weight has a zero point")
    scales = np.broadcast_to(scale, integers.shape)
    for move in reversed(moves):
        integers, scales = move(integers), move(scales)
    return integers, scales


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
    scale, zero_point = read_parameters(node, name)
    if _int_attribute(node, "block_size", 0):
        raise NotQuantizedError("its weight is quantized in blocks")
    integers = _integer_weight(node.inputs[0], name)
    if integers.dtype != zero_point.dtype:
        raise ConversionError(
            f"layer {name!r}: {node.op_type} {called(node)!r} takes {integers.dtype} but its zero "
            f"point is {zero_point.dtype}"
        )
    return integers, *_on_axis(node, (scale, zero_point), integers.shape, name)


def _integer_weight(value: ir.Value | None, name: str) -> Array:
    stored = constant(value)
    if stored is not None:
        return stored
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "QuantizeLinear":
        raise NotQuantizedError(f"its weight {_not_constant(value)}")
    weight = constant(producer.inputs[0])
    if weight is None:
        raise NotQuantizedError(f"its weight {_not_constant(producer.inputs[0])}")
    scale, zero_point = read_parameters(producer, name)
    if zero_point.dtype.kind not in "iu":
        raise NotQuantizedError(f"its weight is quantized to {zero_point.dtype}, not int8")
    if _int_attribute(producer, "block_size", 0):
        raise NotQuantizedError("its weight is quantized in blocks")
    if weight.dtype != np.float32:
        raise NotQuantizedError(f"its weight is {weight.dtype}, not float32")
    if not np.isfinite(weight).all():
        raise ConversionError(f"layer {name!r}: its weight has NaN or infinite values")
    scale, zero_point = _on_axis(producer, (scale, zero_point), weight.shape, name)
    info = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):  # infinity is clipped like every large value
        q = np.asarray(np.rint(weight / scale))
    q += zero_point
    return np.clip(q, info.min, info.max, out=q).astype(zero_point.dtype)


def _not_constant(value: ir.Value | None) -> str:
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return f"is not constant: {value.name!r} is an input of the model, which callers may set"
    return "is not constant"


def read_parameters(node: ir.Node, name: str) -> tuple[Array, Array]:
    """Read a quantizer's constants.

    Args:
        node: a QuantizeLinear or DequantizeLinear.
        name: what to call its reader in a message.
    Returns:
        scale and zero point, of one size; without a zero point, zeros of the integers' type.
    Raises:
        NotQuantizedError: one is not constant, or its type is none a layer can have.
        ConversionError: the scale is not positive and finite, or the zero point does not match.
    """
    scale = constant(node.inputs[1])
    what = f"{node.op_type} {called(node)!r}"
    if scale is None:
        raise NotQuantizedError(f"the scale of {what} {_not_constant(node.inputs[1])}")
    if scale.dtype != np.float32:
        raise NotQuantizedError(f"the scale of {called(node)!r} is {scale.dtype}, not float32")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ConversionError(
            f"layer {name!r}: the scale of {what} must be positive and finite, got "
            f"{scale.ravel()[:4]}"
        )
    if node.op_type == "DequantizeLinear" and _int_attribute(node, "output_dtype", 0) not in (
        ir.DataType.UNDEFINED,
        ir.DataType.FLOAT,
    ):
        raise NotQuantizedError(f"{what} does not dequantize to float32")
    dtype = _dtype_of_codes(node)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        if dtype is None:
            raise NotQuantizedError(f"the type of what {what} takes is not known")
        return scale, np.zeros(scale.shape, dtype)
    zero_point = constant(node.inputs[2])
    if zero_point is None:
        raise NotQuantizedError(f"the zero point of {what} {_not_constant(node.inputs[2])}")
    if zero_point.size != scale.size:
        raise ConversionError(
            f"layer {name!r}: {what} has {scale.size} scales but {zero_point.size} zero points"
        )
    if dtype not in (None, zero_point.dtype):
        raise ConversionError(
            f"layer {name!r}: {what} takes {dtype} but its zero point is {zero_point.dtype}"
        )
    return scale, zero_point


def _dtype_of_codes(node: ir.Node) -> np.dtype[Any] | None:
    """The type of a pair's integers as far as its node says without its zero point."""
    if node.op_type == "QuantizeLinear":
        output = _int_attribute(node, "output_dtype", 0)
        if output:
            return _numpy_dtype(output)
        return None if len(node.inputs) > 2 and node.inputs[2] is not None else np.dtype(np.uint8)
    codes = node.inputs[0]
    if codes is None:
        return None
    stored, producer = constant(codes), codes.producer()
    if stored is not None:
        return stored.dtype
    if producer is not None and producer.op_type == "QuantizeLinear":
        zero_point = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
        return _dtype_of_codes(producer) if zero_point is None else zero_point.dtype
    return None if codes.dtype is None else _numpy_dtype(codes.dtype)


def _numpy_dtype(data_type: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(ir.DataType(data_type).numpy())
    except (ValueError, TypeError):  # no number, or none that ONNX knows
        return None


def _on_axis(
    node: ir.Node, parameters: tuple[Array, Array], shape: tuple[int, ...], name: str
) -> tuple[Array, Array]:
    """Shape a quantizer's scale and zero point so that they broadcast to what it quantizes."""
    axis = _int_attribute(node, "axis", 1)
    size = parameters[0].size
    if size == 1:
        scale, zero_point = (values.reshape((1,) * len(shape)) for values in parameters)
        return scale, zero_point
    if not -len(shape) <= axis < len(shape) or shape[axis] != size:
        raise ConversionError(
            f"layer {name!r}: {node.op_type} {called(node)!r} has {size} scales on axis {axis} of "
            f"shape {shape}"
        )
    full = [1] * len(shape)
    full[axis] = size
    scale, zero_point = (values.reshape(full) for values in parameters)
    return scale, zero_point


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
            raise NotQuantizedError(f"its bias {_not_constant(value)}")
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


def _int_attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
