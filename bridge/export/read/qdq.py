"""Reading QuantizeLinear and DequantizeLinear, of activations and of constants."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array, constant, describe, name_of, reshaper
from bridge.export.graph.operators import int_attribute, zero_point_input

_INT8 = np.iinfo(np.int8)
_ACTIVATIONS = tuple(map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)))


class NotQuantizedError(Exception):
    """Control flow between the readers: the operator stays in float; carries the reason."""


def read_per_tensor_input(node: ir.Node, index: int) -> tuple[ir.Node, np.float32, Array]:
    """Read the DequantizeLinear of an activation that is quantized per tensor.

    Args:
        node: the operator that the activation is an input of.
        index: of the input.
    Returns:
        the DequantizeLinear; the scale; the zero point, a scalar.
    Raises:
        NotQuantizedError: the input is not an activation, or not quantized per tensor to 8 or 16
            bits.
    """
    pair, scale, zero_point = read_input(node, index)
    if scale.size != 1:
        raise NotQuantizedError("its input is not quantized per tensor")
    return pair, np.float32(scale.item()), zero_point.reshape(())


def read_input(node: ir.Node, index: int) -> tuple[ir.Node, Array, Array]:
    """Read the DequantizeLinear of an activation that is quantized per tensor or per channel.

    Args:
        node: the operator that the activation is an input of.
        index: of the input.
    Returns:
        the DequantizeLinear; scale and zero point, (channels,), or (1,) if they are equal for all
        channels.
    Raises:
        NotQuantizedError: the input is not an activation, or not quantized to 8 or 16 bits per
            tensor or per channel.
    """
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        raise NotQuantizedError("its input is not dequantized")
    x_q = producer.inputs[0]
    scale, zero_point = read_qparams(producer)
    check_scale(producer, scale)
    if x_q is None or int_attribute(producer, "block_size", 0) or _is_matrix(scale):
        raise NotQuantizedError("its input is not quantized per tensor")
    if constant(x_q) is not None:
        raise NotQuantizedError("its input is a constant")
    if zero_point.dtype not in _ACTIVATIONS:
        raise NotQuantizedError(f"its input is quantized to {zero_point.dtype}, not 8 or 16 bits")
    scale, zero_point = scale.ravel(), zero_point.ravel()
    if scale.size and (scale == scale[0]).all() and (zero_point == zero_point[0]).all():
        return producer, scale[:1], zero_point[:1]
    return producer, scale, zero_point


def _is_matrix(scale: Array) -> bool:
    return scale.ndim > 1 and scale.size > 1


def read_weight(value: ir.Value | None) -> tuple[Array, Array]:
    """Read the quantized weight of an operator.

    Args:
        value: input of the operator.
    Returns:
        q_w - zero_point_w, int8, or int16 in [-255, 255] if that exceeds int8; and the scales,
        broadcast to its shape.
    Raises:
        NotQuantizedError: the value is not a constant that is quantized to 8 bits.
    """
    producer, moves = dequantizer_of(value)
    if producer is None:
        raise NotQuantizedError("its weight is not quantized")
    integers, scale, zero_point = read_quantized_constant(producer)
    check_scale(producer, scale)
    if integers.dtype not in (np.int8, np.uint8):
        raise NotQuantizedError(f"its weight is quantized to {integers.dtype}, not 8 bits")
    weight = integers.astype(np.int16) - zero_point
    if weight.min(initial=0) >= _INT8.min and weight.max(initial=0) <= _INT8.max:
        weight = weight.astype(np.int8)
    scales = np.broadcast_to(scale, weight.shape)
    for move in moves:
        weight, scales = move(weight), move(scales)
    return weight, scales


def dequantizer_of(
    value: ir.Value | None,
) -> tuple[ir.Node | None, list[Callable[[Array], Array]]]:
    """Follow a value back through shape operators to a DequantizeLinear.

    Args:
        value: any value.
    Returns:
        the DequantizeLinear, None if there is none; and the shape operators after it as functions
        on arrays, in their order.
    """
    moves: list[Callable[[Array], Array]] = []
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type != "DequantizeLinear":
        move = reshaper(producer)
        if move is None or producer.inputs[0] is None:
            return None, []
        moves.append(move)
        producer = producer.inputs[0].producer()
    return producer, moves[::-1]


def is_activation(value: ir.Value | None) -> bool:
    """Whether a value is dequantized, perhaps before shape operators, and not a constant.

    Args:
        value: any value.
    Returns:
        False for every constant, also one whose quantization cannot be read.
    """
    producer, _ = dequantizer_of(value)
    codes = None if producer is None else producer.inputs[0]
    if codes is None or constant(codes) is not None:
        return False
    quantize = codes.producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return True
    return constant(quantize.inputs[0]) is None


def read_quantized_constant(node: ir.Node, *, what: str = "weight") -> tuple[Array, Array, Array]:
    """Read the DequantizeLinear of a constant.

    Args:
        node: the DequantizeLinear.
        what: name of the constant in messages, such as "weight".
    Returns:
        integers; scale and zero point, which broadcast to them. The scale may have any float32
        values: see check_scale.
    Raises:
        NotQuantizedError: its input is not constant or is quantized in blocks, or scale and zero
            point do not fit it.
    """
    scale, zero_point = read_qparams(node)
    if int_attribute(node, "block_size", 0):
        raise NotQuantizedError(f"its {what} is quantized in blocks")
    integers = _integers(node.inputs[0], what)
    if integers.dtype != zero_point.dtype:
        raise NotQuantizedError(
            f"the codes of {describe(node)} are {integers.dtype}, but the zero point is "
            f"{zero_point.dtype}"
        )
    return integers, *_on_axis(node, (scale, zero_point), integers.shape)


def check_scale(node: ir.Node, scale: Array) -> None:
    """Raise unless every scale of a quantizer is positive and finite.

    Args:
        node: the QuantizeLinear or DequantizeLinear.
        scale: its scales.
    Raises:
        NotQuantizedError: one is zero, negative, infinite or NaN.
    """
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise NotQuantizedError(
            f"the scale of {describe(node)} must be positive and finite, got {scale.ravel()[:4]}"
        )


def _integers(value: ir.Value | None, what: str) -> Array:
    stored = constant(value)
    if stored is not None:
        return stored
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "QuantizeLinear":
        raise NotQuantizedError(f"its {what} {why_not_constant(value)}")
    floats = constant(producer.inputs[0])
    if floats is None:
        raise NotQuantizedError(f"its {what} {why_not_constant(producer.inputs[0])}")
    scale, zero_point = read_qparams(producer)
    check_scale(producer, scale)
    if zero_point.dtype.kind not in "iu":
        raise NotQuantizedError(f"its {what} is quantized to {zero_point.dtype}, not int8")
    if int_attribute(producer, "block_size", 0):
        raise NotQuantizedError(f"its {what} is quantized in blocks")
    if floats.dtype != np.float32:
        raise NotQuantizedError(f"its {what} is {floats.dtype}, not float32")
    if not np.isfinite(floats).all():
        raise NotQuantizedError(f"its {what} has NaN or infinite values")
    scale, zero_point = _on_axis(producer, (scale, zero_point), floats.shape)
    info = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):  # infinity is clipped like every large value
        q = np.asarray(np.rint(floats / scale))
    q += zero_point
    return np.clip(q, info.min, info.max, out=q).astype(zero_point.dtype)


def why_not_constant(value: ir.Value | None) -> str:
    """Return the reason why a value is not constant, for a message.

    Args:
        value: one that `constant` returns None for.
    Returns:
        a predicate that follows the value's name, such as "is not constant".
    """
    if value is not None and value.is_graph_input() and value.const_value is not None:
        return f"is not constant: {value.name!r} is an input of the model, which callers may set"
    return "is not constant"


def read_qparams(node: ir.Node) -> tuple[Array, Array]:
    """Read the scale and zero point of a quantizer.

    Args:
        node: a QuantizeLinear or DequantizeLinear.
    Returns:
        scale, float32, and zero point, of the same size; a zero point that is left out is zeros of
        the codes' dtype.
    Raises:
        NotQuantizedError: one is not constant, the node does not quantize float32, or the zero
            point does not fit the scale or the codes.
    """
    scale = constant(node.inputs[1])
    if scale is None:
        raise NotQuantizedError(f"the scale of {describe(node)} {why_not_constant(node.inputs[1])}")
    if scale.dtype != np.float32:
        raise NotQuantizedError(f"the scale of {name_of(node)!r} is {scale.dtype}, not float32")
    if node.op_type == "DequantizeLinear" and int_attribute(node, "output_dtype", 0) not in (
        ir.DataType.UNDEFINED,
        ir.DataType.FLOAT,
    ):
        raise NotQuantizedError(f"{describe(node)} does not dequantize to float32")
    dtype = _dtype_of_codes(node)
    given = zero_point_input(node)
    if given is None:
        if dtype is None:
            raise NotQuantizedError(f"the data type of the input of {describe(node)} is not known")
        return scale, np.zeros(scale.shape, dtype)
    zero_point = constant(given)
    if zero_point is None:
        raise NotQuantizedError(f"the zero point of {describe(node)} {why_not_constant(given)}")
    if zero_point.size != scale.size:
        raise NotQuantizedError(
            f"{describe(node)} has {scale.size} scales but {zero_point.size} zero points"
        )
    if dtype not in (None, zero_point.dtype):
        raise NotQuantizedError(
            f"the codes of {describe(node)} are {dtype}, but the zero point is {zero_point.dtype}"
        )
    return scale, zero_point


def read_uint8_qparams(node: ir.Node) -> tuple[np.float32, int]:
    """Read the scale and zero point of a per-tensor quantizer to uint8.

    Args:
        node: a QuantizeLinear or DequantizeLinear.
    Returns:
        scale and zero point.
    Raises:
        NotQuantizedError: one is not a single constant, the scale is not a positive float32, or the
            zero point is not uint8 or is left out.
    """
    scale, zero_point = constant(node.inputs[1]), constant(zero_point_input(node))
    if zero_point is None or zero_point.dtype != np.uint8 or zero_point.size != 1:
        raise NotQuantizedError(
            f"the zero point of {describe(node)} is not a single uint8 constant"
        )
    if scale is None or scale.dtype != np.float32 or scale.size != 1 or not 0 < scale < np.inf:
        raise NotQuantizedError(
            f"the scale of {describe(node)} is not a single positive float32 constant"
        )
    return np.float32(scale.item()), int(zero_point.item())


def find_uint8_qparams(node: ir.Node) -> tuple[np.float32, int] | None:
    """Return what read_uint8_qparams does, or None.

    Args:
        node: a QuantizeLinear or DequantizeLinear.
    Returns:
        scale and zero point; None for other quantizers, and for those with an attribute other than
        axis.
    """
    if not set(node.attributes) <= {"axis"}:
        return None
    try:
        return read_uint8_qparams(node)
    except NotQuantizedError:
        return None


def _dtype_of_codes(node: ir.Node) -> np.dtype[Any] | None:
    """Return the dtype of a quantizer's codes, as far as it is known without its zero point."""
    if node.op_type == "QuantizeLinear":
        output = int_attribute(node, "output_dtype", 0)
        if output:
            return _numpy_dtype(output)
        return np.dtype(np.uint8) if zero_point_input(node) is None else None
    codes = node.inputs[0]
    if codes is None:
        return None
    stored, producer = constant(codes), codes.producer()
    if stored is not None:
        return stored.dtype
    if producer is not None and producer.op_type == "QuantizeLinear":
        zero_point = constant(zero_point_input(producer))
        return _dtype_of_codes(producer) if zero_point is None else zero_point.dtype
    return None if codes.dtype is None else _numpy_dtype(codes.dtype)


def _numpy_dtype(data_type: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(ir.DataType(data_type).numpy())
    except (ValueError, TypeError):  # not a number, or not a data type of ONNX
        return None


def _on_axis(
    node: ir.Node, parameters: tuple[Array, Array], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Reshape a quantizer's scale and zero point so that they broadcast to its input."""
    axis = int_attribute(node, "axis", 1)
    size = parameters[0].size
    if size == 1:
        scale, zero_point = (values.reshape((1,) * len(shape)) for values in parameters)
        return scale, zero_point
    if not -len(shape) <= axis < len(shape) or shape[axis] != size:
        raise NotQuantizedError(
            f"{describe(node)} has {size} scales on axis {axis} of shape {shape}"
        )
    full = [1] * len(shape)
    full[axis] = size
    scale, zero_point = (values.reshape(full) for values in parameters)
    return scale, zero_point
