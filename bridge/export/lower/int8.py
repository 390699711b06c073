"""A layer on ONNX Runtime's integer operators.

    x_q -> DequantizeLinear -> Conv | Gemm | MatMul (DequantizeLinear(weight), bias) -> y
        becomes
    x_q, uint8 -> ConvInteger | MatMulInteger (weight + 128, uint8) -> epilogue -> y

A ConvTranspose becomes a ConvInteger with depth-to-space after it (sub-pixel convolution,
geometry.conv_transpose).

Both operands are uint8. On x86 processors without VNNI the kernels add two uint8 x int8 products in
16 bits and saturate; uint8 x uint8 is exact everywhere. The file stores the weight as int8, and
ONNX Runtime folds the shift by 128 at load time. With VNNI, uint8 x int8 is exact and fastest: the
option `vnni` writes models for such processors.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv_transpose import as_convolution
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.lower.depth_to_space import write_depth_to_space
from bridge.export.lower.epilogue import write_epilogue
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.lower.int16 import join_halves, split_input
from bridge.export.lower.uint8_weights import write_uint8_codes, write_weight
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.zero_points import UINT8_SHIFT, split_weight


def write_integer(builder: Builder, layer: QuantizedLayer) -> None:
    """Write a layer as ConvInteger or MatMulInteger and its epilogue.

    Args:
        builder: writes the nodes.
        layer: a Conv or MatMul layer, or a ConvTranspose that can_be_convolution.
    """
    operator = as_convolution(layer)
    product = layer.op == "MatMul"
    # ConvInteger's kernel takes the weight as its left operand, which must be uint8.
    vnni = builder.vnni and product and may_be_int8(layer)
    weights = [write_weight(builder, part, vnni=vnni) for part in split_weight(operator.weight)]
    op_type = "MatMulInteger" if product else "ConvInteger"
    halves = []
    for x, zero in _inputs(builder, layer):
        first, *more = (
            builder.op(op_type, x, weight, np.uint8(zero), zero_w, **operator.attributes)
            for weight, zero_w in weights
        )
        halves.append(builder.op("Add", first, *more) if more else first)
    sums = join_halves(builder, *halves) if layer.wide else halves[0]
    write_epilogue(builder, layer, write_depth_to_space(builder, sums, operator.phases))


def _inputs(builder: Builder, layer: QuantizedLayer) -> list[tuple[ir.Value, int]]:
    """Write the layer's input as uint8: one value, or two halves; each with its zero point."""
    if layer.wide:
        halves = split_input(builder, layer)
        return [(builder.op("Cast", half, to=ir.DataType.UINT8), zero) for half, zero in halves]
    return [write_uint8_input(builder, layer.x_q, layer.zero_point_x)]


def write_uint8_input(builder: Builder, x_q: ir.Value, zero: Array) -> tuple[ir.Value, int]:
    """Write 8-bit codes as uint8.

    Args:
        builder: writes the nodes.
        x_q: int8 or uint8, any shape.
        zero: zero point of x_q, a scalar of its dtype.
    Returns:
        uint8 codes, and their zero point in 0..255.
    """
    if zero.dtype == np.uint8:
        return x_q, int(zero)
    return write_uint8_codes(builder, x_q), int(zero) + UINT8_SHIFT
