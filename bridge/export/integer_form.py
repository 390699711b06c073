"""A layer on ONNX Runtime's integer operators.

    x_q, uint8 -> ConvInteger | MatMulInteger (weight + 128, uint8) -> tail

Both operands are unsigned: on processors without VNNI the product of a signed and an unsigned
byte is summed in 16 bits and saturates, while unsigned by unsigned is exact everywhere. The file
keeps the weight as int8; the shift by 128 is folded when the model is loaded.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, constant
from bridge.export.reader import QuantizedLayer
from bridge.export.scribe import Scribe
from bridge.export.tail import write_tail
from bridge.export.wide import join_halves, split_input

_SHIFT = 128


def write_integer(scribe: Scribe, layer: QuantizedLayer) -> None:
    """Write a convolution or a matrix product in integers.

    Args:
        scribe: writes the nodes.
        layer: a Conv or MatMul layer.
    """
    weight = _unsigned(scribe, layer.weight)
    halves = [_integer_op(scribe, layer, x, weight, zero) for x, zero in _inputs(scribe, layer)]
    write_tail(scribe, layer, join_halves(scribe, *halves) if layer.wide else halves[0])


def _integer_op(
    scribe: Scribe, layer: QuantizedLayer, x: ir.Value, weight: ir.Value, zero_point: int
) -> ir.Value:
    op_type = {"Conv": "ConvInteger", "MatMul": "MatMulInteger"}[layer.op]
    zeros = np.uint8(zero_point), np.uint8(_SHIFT)
    return scribe.op(op_type, x, weight, *zeros, **layer.attributes)


def _inputs(scribe: Scribe, layer: QuantizedLayer) -> list[tuple[ir.Value, int]]:
    """Return the layer's input as uint8 values with their zero points: one, or two halves."""
    if layer.wide:
        halves = split_input(scribe, layer)
        return [(scribe.op("Cast", half, to=ir.DataType.UINT8), zero) for half, zero in halves]
    return [unsigned_input(scribe, layer.x_q, layer.zero_point_x)]


def unsigned_input(scribe: Scribe, x_q: ir.Value, zero: Array) -> tuple[ir.Value, int]:
    """Write an 8-bit quantized value as uint8.

    Args:
        scribe: writes the nodes.
        x_q: int8 or uint8.
        zero: its zero point, a scalar of its dtype.
    Returns:
        the value and its zero point as uint8.
    """
    zero_point = int(zero)
    if zero.dtype == np.uint8:
        return x_q, zero_point
    zero_point += _SHIFT
    quantize = x_q.producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return _unsigned(scribe, x_q), zero_point
    # Quantizing with a zero point 128 higher gives the same codes, 128 higher.
    x, scale = quantize.inputs[0], quantize.inputs[1]
    if x is None or scale is None or not _plain(quantize, zero):
        return _unsigned(scribe, x_q), zero_point
    return scribe.op("QuantizeLinear", x, scale, np.uint8(zero_point)), zero_point


def _plain(quantize: ir.Node, zero: Array) -> bool:
    """Whether a quantizer has one scale, its reader's zero point and nothing special."""
    scale, stored = constant(quantize.inputs[1]), None
    if len(quantize.inputs) > 2:
        stored = constant(quantize.inputs[2])
    if scale is None or stored is None or scale.size != 1 or stored.size != 1:
        return False
    return set(quantize.attributes) <= {"axis"} and bool((stored == zero).all())


def _unsigned(scribe: Scribe, integers: ir.Value | Array) -> ir.Value:
    wide = scribe.op("Cast", integers, to=ir.DataType.INT32)
    return scribe.op("Cast", scribe.op("Add", wide, np.int32(_SHIFT)), to=ir.DataType.UINT8)
