"""Reading QuantizeLinear and DequantizeLinear: of activations, and of constants."""

from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, called, constant, reshaper
from bridge.export.errors import ConversionError

_ACTIVATIONS = tuple(map(np.dtype, (np.int8, np.uint8, np.int16, np.uint16)))


class NotQuantizedError(Exception):
    """Control flow between the readers: the operator stays float, with the reason."""


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
    if x_q is None or scale.size != 1 or int_attribute(producer, "block_size", 0):
        raise NotQuantizedError("its input is not quantized per tensor")
    if constant(x_q) is not None:
        raise NotQuantizedError("its input is a constant")
    if zero_point.dtype not in _ACTIVATIONS:
        raise NotQuantizedError(f"its input is quantized to {zero_point.dtype}, not 8 or 16 bits")
    return x_q, np.float32(scale.reshape(())), zero_point.reshape(())


def read_weight(value: ir.Value | None, name: str) -> tuple[Array, Array]:
    """Read an operator's weight.

    Args:
        value: the operator's input.
        name: what to call the operator in a message.
    Returns:
        the int8 weight and its scales, broadcast to the weight's shape.
    Raises:
        NotQuantizedError: it is not quantized in a form that can be converted.
        ConversionError: a scale is not positive and finite, or the weight not finite.
    """
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
    if int_attribute(node, "block_size", 0):
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
        raise NotQuantizedError(f"its weight {not_constant(value)}")
    weight = constant(producer.inputs[0])
    if weight is None:
        raise NotQuantizedError(f"its weight {not_constant(producer.inputs[0])}")
    scale, zero_point = read_parameters(producer, name)
    if zero_point.dtype.kind not in "iu":
        raise NotQuantizedError(f"its weight is quantized to {zero_point.dtype}, not int8")
    if int_attribute(producer, "block_size", 0):
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


def not_constant(value: ir.Value | None) -> str:
    """Say why a value is not constant.

    Args:
        value: one that `constant` returns None for.
    Returns:
        the end of a sentence about it.
    """
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
        raise NotQuantizedError(f"the scale of {what} {not_constant(node.inputs[1])}")
    if scale.dtype != np.float32:
        raise NotQuantizedError(f"the scale of {called(node)!r} is {scale.dtype}, not float32")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ConversionError(
            f"layer {name!r}: the scale of {what} must be positive and finite, got "
            f"{scale.ravel()[:4]}"
        )
    if node.op_type == "DequantizeLinear" and int_attribute(node, "output_dtype", 0) not in (
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
        raise NotQuantizedError(f"the zero point of {what} {not_constant(node.inputs[2])}")
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
        output = int_attribute(node, "output_dtype", 0)
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
    axis = int_attribute(node, "axis", 1)
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


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of a node.

    Args:
        node: any node.
        name: of the attribute.
        default: what the operator takes without it.
    Returns:
        its value.
    """
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
