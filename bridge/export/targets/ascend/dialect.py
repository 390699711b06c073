"""A layer in the Ascend dialect, whose operators are in ONNX's default domain.

    x -> QuantizeLinear -> DequantizeLinear -> op(DequantizeLinear(weight), bias) -> y
        becomes, in fake-quant,
    x -> Mul(1 / scale_x) -> Round -> Clip -> op(integer-valued weight) -> Cast(int32) -> epilogue
        -> y
        and in deploy
    x -> AscendQuant -> op(int8 weight, int32 bias) -> AscendDequant -> (Add(shift)) -> y

with op = Conv, ConvTranspose, Gemm or MatMul, and

    AscendQuant(x) = clamp(round(x * scale) + offset, -128, 127), scale = 1 / scale_x
    AscendDequant(acc, p) = float32(acc) * scale, the float32 in bits 0-31 of the uint64 p
    AscendAntiQuant(q) = (q + offset) * scale, before a float operator

The device multiplies by the reciprocal of the scale instead of dividing, so fake-quant does too.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.output_padding import with_valid_output_padding
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array, name_of
from bridge.export.graph.errors import ConversionError
from bridge.export.lower.epilogue import per_channel, write_epilogue, write_shift
from bridge.export.read.layer import QuantizedLayer, signed_zero_point
from bridge.export.read.qdq import NotQuantizedError, read_qparams


def refusal(layer: QuantizedLayer) -> str | None:
    """Return why the dialect cannot represent a layer.

    Args:
        layer: the quantized layer.
    Returns:
        the reason, for a per-channel input scale, a weight that is not int8 after subtracting its
        zero point, and a Gemm or MatMul with per-channel weight scales; None for other layers.
    """
    if layer.scale_x.size > 1:
        return f"target 'ascend' takes one input scale per tensor, got {layer.scale_x.size}"
    if layer.weight.dtype != np.int8:
        return "target 'ascend' takes int8 weights without a zero point"
    if layer.op == "MatMul" and layer.scale_w.size > 1:
        return (
            f"target 'ascend' takes one weight scale per tensor for {layer.node.op_type}, "
            f"got {layer.scale_w.size}"
        )
    return None


def check_layers(layers: Sequence[QuantizedLayer]) -> None:
    """Raise unless the dialect can represent all layers of a graph together.

    Args:
        layers: of one graph.
    Raises:
        ConversionError: two layers share a weight, or one has a 16-bit input.
    """
    owners: dict[str, str] = {}
    for layer in layers:
        if layer.wide:
            raise ConversionError(
                f"layer {layer.name!r}: target 'ascend' takes INT8 activations, got "
                f"{layer.zero_point_x.dtype}"
            )
        owner = owners.setdefault(layer.weight_source, layer.name)
        if layer.weight_source and owner != layer.name:
            raise ConversionError(
                f"layers {owner!r} and {layer.name!r} share a weight, which target 'ascend' does "
                "not allow; use target 'ort', or give each a weight of its own"
            )


def ascend_input(
    builder: Builder, name: str, x_q: ir.Value, scale: np.float32, zero_point: Array
) -> ir.Value:
    """Write AscendQuant instead of the QuantizeLinear of an input.

    Args:
        builder: writes the nodes.
        name: of the layer, for messages.
        x_q: the quantized input.
        scale: of the input, a positive float32.
        zero_point: of the input, a scalar, int8 or uint8.
    Returns:
        the output of AscendQuant, int8 codes.
    Raises:
        ConversionError: x_q is not the output of a QuantizeLinear with this scale and zero point.
    """
    return builder.op(
        "AscendQuant",
        _float_input(name, x_q, scale, zero_point),
        scale=float(np.float32(1.0) / scale),
        offset=float(signed_zero_point(zero_point)),
        dst_type="INT8",
    )


def reciprocal_input(
    builder: Builder, name: str, x_q: ir.Value, scale: np.float32, zero_point: Array
) -> ir.Value:
    """Write AscendQuant(x) - zero point in standard float operators: Mul -> Round -> Clip.

    Args:
        builder: writes the nodes.
        name: of the layer, for messages.
        x_q: the quantized input.
        scale: of the input, a positive float32.
        zero_point: of the input, a scalar, int8 or uint8.
    Returns:
        integer-valued float32.
    Raises:
        ConversionError: x_q is not the output of a QuantizeLinear with this scale and zero point.
    """
    zero = signed_zero_point(zero_point)
    x = builder.op("Mul", _float_input(name, x_q, scale, zero_point), np.float32(1.0) / scale)
    limits = np.float32(-128 - zero), np.float32(127 - zero)
    return builder.op("Clip", builder.op("Round", x), *limits)


def write_ascend_fake(builder: Builder, layer: QuantizedLayer) -> None:
    """Write the fake-quant form of a layer: the dialect's arithmetic in standard float operators.

    Args:
        builder: writes the nodes.
        layer: the layer.
    """
    x = reciprocal_input(
        builder, layer.name, layer.x_q, np.float32(layer.scale_x), layer.zero_point_x
    )
    one = with_valid_output_padding(layer)
    sums = builder.op(one.op, x, one.weight.astype(np.float32), **one.attributes)
    write_epilogue(builder, layer, builder.op("Cast", sums, to=ir.DataType.INT32))


def write_ascend(builder: Builder, layer: QuantizedLayer) -> None:
    """Write the deploy form of a layer in the Ascend dialect.

    Args:
        builder: writes the nodes.
        layer: the layer.
    """
    x = ascend_input(builder, layer.name, layer.x_q, np.float32(layer.scale_x), layer.zero_point_x)
    if layer.op == "MatMul" and layer.bias is not None and layer.node.op_type == "Gemm":
        sums = builder.op("Gemm", x, layer.weight, layer.bias)
    elif layer.op == "MatMul":
        sums = builder.op("MatMul", x, layer.weight)
        if layer.bias is not None:
            sums = builder.op("Add", sums, layer.bias)
    else:
        operands = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        sums = builder.op(layer.op, x, *operands, **layer.attributes)
    y = builder.op("AscendDequant", sums, _dequant_parameters(layer), dtype=0)
    write_shift(builder, layer, y)


def _float_input(name: str, x_q: ir.Value, scale: np.float32, zero_point: Array) -> ir.Value:
    if zero_point.dtype.itemsize > 1:
        raise ConversionError(
            f"layer {name!r}: target 'ascend' takes INT8 activations, got {zero_point.dtype}"
        )
    producer = x_q.producer()
    if producer is None or producer.op_type != "QuantizeLinear" or producer.inputs[0] is None:
        raise ConversionError(
            f"layer {name!r}: target 'ascend' needs a QuantizeLinear just before the layer, "
            f"got {'the graph input' if producer is None else producer.op_type}"
        )
    check_pair(producer, scale, zero_point, name)
    return producer.inputs[0]


def check_pair(quantize: ir.Node, scale: np.float32, zero_point: Array, name: str) -> None:
    """Raise unless both nodes of a Q/DQ pair have one scale and zero point, and 1 / scale exists.

    Args:
        quantize: the QuantizeLinear.
        scale: of the DequantizeLinear, a float32.
        zero_point: of the DequantizeLinear, a scalar.
        name: of the layer, for messages.
    Raises:
        ConversionError: they differ, or 1 / scale exceeds float32; names the layer.
    """
    try:
        first, zero = read_qparams(quantize)
    except NotQuantizedError as reason:
        raise ConversionError(f"layer {name!r}: {reason}") from reason
    if first.size != 1 or first.item() != scale or zero.item() != zero_point:
        raise ConversionError(
            f"layer {name!r}: target 'ascend' needs one scale and zero point per pair, but "
            f"{name_of(quantize)!r} has {first.ravel()[:4]} and {zero.ravel()[:4]}, its "
            f"DequantizeLinear {scale} and {zero_point}"
        )
    with np.errstate(over="ignore"):
        reciprocal = np.float32(1.0) / scale
    if not np.isfinite(reciprocal):
        raise ConversionError(
            f"layer {name!r}: target 'ascend' multiplies by 1 / scale, which is beyond float32 "
            f"for {scale}"
        )


def _dequant_parameters(layer: QuantizedLayer) -> Array:
    """Pack scale_x * scale_w of each channel into uint64; bits 32-39, the weight offset, are 0."""
    channels = per_channel(layer.rescale, layer).size
    scale = layer.rescale.astype(np.float32).reshape(channels)
    return scale.view(np.uint32).astype(np.uint64)
