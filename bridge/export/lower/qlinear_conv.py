"""A chain as one QLinearConv."""

from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv3d import as_conv2d
from bridge.export.geometry.conv_transpose import Convolution, as_convolution
from bridge.export.geometry.windows import may_see_only_padding
from bridge.export.graph.builder import Builder
from bridge.export.lower.byte_weights import byte_weight
from bridge.export.lower.conv3d import write_pictures, write_volumes
from bridge.export.lower.depth_to_space import write_interleaved
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain

_FAST_POOL = 2


def write_chain(
    chain: Chain, builder: Builder, layer: QuantizedLayer, *, in_pictures: bool = False
) -> None:
    """Write a chain as one QLinearConv, and what moves its codes.

    Args:
        chain: from find_chains.
        builder: writes the nodes.
        layer: the layer.
        in_pictures: write a convolution that can_be_conv2d in two dimensions.
    """
    integer, one = chain.fitted.integer, np.float32(1.0)
    pictures = as_conv2d(layer) if in_pictures else None
    if pictures is None:
        # With phases first, blocks of channels are moved to put the codes in order.
        operator, x_q = as_convolution(layer, phases_first=layer.groups == 1), layer.x_q
    else:
        operator = Convolution(pictures.weight, pictures.attributes, None)
        x_q = write_pictures(builder, layer, pictures)
    phases = operator.phases
    vnni = builder.vnni and may_be_int8(layer)
    weight, zero_w = byte_weight(builder, operator.weight, vnni=vnni)
    scale_w = integer.multiplier
    if phases is not None and scale_w.size > 1:
        scale_w = phases.spread(scale_w)
    zero_y = np.uint8(integer.grid.zero_point)
    if scale_w.size == 1:
        scale_w = scale_w.reshape(())
    operands: list[Any] = [
        x_q,
        one,
        layer.zero_point_x,
        weight,
        scale_w,
        zero_w,
        one,
        zero_y,
    ]
    channels = len(layer.accumulator_bounds)
    bias = np.zeros(channels, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    bias = bias + integer.offset
    if bias.any():
        bias = bias.astype(np.int32)
        operands.append(bias if phases is None else phases.spread(bias))
    codes = builder.op("QLinearConv", *operands, **operator.attributes)
    codes = write_interleaved(builder, codes, phases)
    if pictures is not None:
        codes = write_volumes(builder, layer, pictures, codes)
    codes = _clamped(builder, codes, chain.clamps[0])
    for move, clamp in zip(chain.passthrough, chain.clamps[1:], strict=True):
        codes = _clamped(builder, _moved(builder, move, codes), clamp)
    for quantizer in chain.quantizers:
        builder.replace(quantizer.outputs[0], codes, ir.DataType.UINT8)


def _clamped(builder: Builder, codes: ir.Value, clamp: tuple[int, int] | None) -> ir.Value:
    return codes if clamp is None else builder.op("Clip", codes, *map(np.uint8, clamp))


def _moved(builder: Builder, move: ir.Node, codes: ir.Value) -> ir.Value:
    """Write a node that values pass through for their codes."""
    rest = [value for value in move.inputs[1:] if value is not None]
    attributes = {name: attribute.value for name, attribute in move.attributes.items()}
    # ONNX Runtime has a fast MaxPool of bytes for two dimensions only.
    slow = move.op_type == "MaxPool" and len(attributes["kernel_shape"]) != _FAST_POOL
    if not slow:
        return builder.op(move.op_type, codes, *rest, **attributes)
    floats = builder.op("Cast", codes, to=ir.DataType.FLOAT)
    floats = builder.op(move.op_type, floats, **attributes)
    if may_see_only_padding(move):
        # A cast from what is below 0 has no defined result.
        floats = builder.op("Max", floats, np.float32(0))
    return builder.op("Cast", floats, to=ir.DataType.UINT8)
