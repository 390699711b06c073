"""A layer on ONNX Runtime's integer operators.

    x_q, uint8 -> ConvInteger | MatMulInteger (weight + 128, uint8) -> tail

A transposed convolution is a ConvInteger whose output is put in order (geometry.conv_transpose).

Both operands are unsigned: on x86 processors without VNNI two products of an unsigned and a signed
byte are summed in 16 bits and saturate, while unsigned by unsigned is exact everywhere. The file
keeps the weight as int8; the shift by 128 is folded when the model is loaded. With VNNI uint8 x
int8 is exact and the fastest, so there is a switch (`vnni`) for models that run there alone.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv_transpose import as_convolution
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.lower.byte_weights import byte_weight, unsigned_codes
from bridge.export.lower.depth_to_space import write_interleaved
from bridge.export.lower.epilogue import write_tail
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.lower.int16 import join_halves, split_input
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.zero_points import UINT8_SHIFT, split_weight


def write_integer(builder: Builder, layer: QuantizedLayer) -> None:
    """Write a convolution or a matrix product in integers.

    Args:
        builder: writes the nodes.
        layer: a Conv or MatMul layer, or a ConvTranspose that can_be_convolution.
    """
    operator = as_convolution(layer)
    product = layer.op == "MatMul"
    # ConvInteger's weight is the left operand of its kernel, which has to be unsigned.
    vnni = builder.vnni and product and may_be_int8(layer)
    weights = [byte_weight(builder, part, vnni=vnni) for part in split_weight(operator.weight)]
    op_type = "MatMulInteger" if product else "ConvInteger"
    halves = []
    for x, zero in _inputs(builder, layer):
        first, *more = (
            builder.op(op_type, x, weight, np.uint8(zero), zero_w, **operator.attributes)
            for weight, zero_w in weights
        )
        halves.append(builder.op("Add", first, *more) if more else first)
    sums = join_halves(builder, *halves) if layer.wide else halves[0]
    write_tail(builder, layer, write_interleaved(builder, sums, operator.phases))


def _inputs(builder: Builder, layer: QuantizedLayer) -> list[tuple[ir.Value, int]]:
    """Return the layer's input as uint8 values with their zero points: one, or two halves."""
    if layer.wide:
        halves = split_input(builder, layer)
        return [(builder.op("Cast", half, to=ir.DataType.UINT8), zero) for half, zero in halves]
    return [unsigned_input(builder, layer.x_q, layer.zero_point_x)]


def unsigned_input(builder: Builder, x_q: ir.Value, zero: Array) -> tuple[ir.Value, int]:
    """Write an 8-bit quantized value as uint8.

    Args:
        builder: writes the nodes.
        x_q: int8 or uint8.
        zero: its zero point, a scalar of its dtype.
    Returns:
        the value and its zero point as uint8.
    """
    if zero.dtype == np.uint8:
        return x_q, int(zero)
    return unsigned_codes(builder, x_q), int(zero) + UINT8_SHIFT
