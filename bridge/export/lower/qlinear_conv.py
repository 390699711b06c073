"""A convolution and its requantization as one QLinearConv.

    x_q -> DequantizeLinear -> Conv | ConvTranspose -> (Relu | Clip | MaxPool | reshape)*
        -> QuantizeLinear -> y_q
        becomes
    x_q -> QLinearConv(multiplier as w_scale, x_scale = y_scale = 1) -> (Clip) -> (MaxPool |
        reshape)* -> y_q

The multiplier and an offset in the bias are those that requantization.chains has proven to give
the same codes. ONNX Runtime's QLinearConv is faster than a ConvInteger with a float epilogue.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv3d import as_conv2d
from bridge.export.geometry.conv_transpose import Convolution, as_convolution
from bridge.export.geometry.windows import may_see_only_padding
from bridge.export.graph.builder import Builder
from bridge.export.lower.conv3d import write_slices, write_volumes
from bridge.export.lower.depth_to_space import write_depth_to_space
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.lower.uint8_weights import write_weight
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain

_FAST_POOL = 2


def write_chain(
    chain: Chain, builder: Builder, layer: QuantizedLayer, *, in_2d: bool = False
) -> None:
    """Write a chain as one QLinearConv, with its MaxPool and shape operators on codes.

    Args:
        chain: from find_chains.
        builder: writes the nodes.
        layer: the layer.
        in_2d: write a 3-D convolution as a 2-D one of depth slices (lower.conv3d).
    """
    integer, one = chain.fitted.integer, np.float32(1.0)
    conv2d = as_conv2d(layer) if in_2d else None
    if conv2d is None:
        # With phases first, depth-to-space copies contiguous blocks of channels.
        operator, x_q = as_convolution(layer, phases_first=layer.groups == 1), layer.x_q
    else:
        operator = Convolution(conv2d.weight, conv2d.attributes, None)
        x_q = write_slices(builder, layer, conv2d)
    phases = operator.phases
    vnni = builder.vnni and may_be_int8(layer)
    weight, zero_w = write_weight(builder, operator.weight, vnni=vnni)
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
    codes = write_depth_to_space(builder, codes, phases)
    if conv2d is not None:
        codes = write_volumes(builder, layer, conv2d, codes)
    codes = _clamped(builder, codes, chain.clamps[0])
    for node, clamp in zip(chain.passthrough, chain.clamps[1:], strict=True):
        codes = _clamped(builder, _on_codes(builder, node, codes), clamp)
    for quantizer in chain.quantizers:
        builder.replace(quantizer.outputs[0], codes, ir.DataType.UINT8)


def _clamped(builder: Builder, codes: ir.Value, clamp: tuple[int, int] | None) -> ir.Value:
    return codes if clamp is None else builder.op("Clip", codes, *map(np.uint8, clamp))


def _on_codes(builder: Builder, node: ir.Node, codes: ir.Value) -> ir.Value:
    """Write a MaxPool or shape operator on codes instead of floats."""
    others = [value for value in node.inputs[1:] if value is not None]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    # ONNX Runtime has a fast uint8 MaxPool for two spatial dimensions only.
    slow = node.op_type == "MaxPool" and len(attributes["kernel_shape"]) != _FAST_POOL
    if not slow:
        return builder.op(node.op_type, codes, *others, **attributes)
    floats = builder.op("Cast", codes, to=ir.DataType.FLOAT)
    floats = builder.op(node.op_type, floats, **attributes)
    if may_see_only_padding(node):
        # A window of padding alone gives a negative float, whose cast to uint8 is undefined.
        floats = builder.op("Max", floats, np.float32(0))
    return builder.op("Cast", floats, to=ir.DataType.UINT8)
