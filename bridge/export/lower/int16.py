"""16-bit inputs as two 8-bit halves, so that every sum stays exact.

    x_q (int16) -> operator -> sums
        becomes
    x_q -> Cast(int32) -> Add(32768) = u
    high = Div(u, 256) --------> operator -> Cast(int64) -> Mul(256) -+
    low = Sub(u, 256 * high) --> operator -> Cast(int64) -------------+-> Add -> sums

since q - zero_point = 256 * (high - zero_high) + (low - zero_low), where high and low are the bytes
of u (u = q for uint16). No integer operator takes 16 bits, and float32 sums of 16-bit codes soon
exceed 2^24; sums of bytes stay exact 256 times longer.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer

_HALF = 1 << 15
_BYTE = 1 << 8


def split_input(builder: Builder, layer: QuantizedLayer) -> list[tuple[ir.Value, int]]:
    """Write the high and the low byte of a layer's 16-bit input.

    Args:
        builder: writes the nodes.
        layer: a layer whose x_q is int16 or uint16.
    Returns:
        the high and the low half as int32 values in 0..255, each with its zero point.
    """
    return split_codes(builder, layer.x_q, layer.zero_point_x)


def split_codes(builder: Builder, x_q: ir.Value, zero_point: Array) -> list[tuple[ir.Value, int]]:
    """Write the high and the low byte of 16-bit codes.

    Args:
        builder: writes the nodes.
        x_q: int16 or uint16, any shape.
        zero_point: of x_q, a scalar of its dtype.
    Returns:
        the high and the low half as int32 values in 0..255, each with its zero point.
    """
    shift = _HALF if zero_point.dtype == np.int16 else 0
    wide = builder.op("Cast", x_q, to=ir.DataType.INT32)
    unsigned = builder.op("Add", wide, np.int32(shift)) if shift else wide
    high = builder.op("Div", unsigned, np.int32(_BYTE))
    low = builder.op("Sub", unsigned, builder.op("Mul", high, np.int32(_BYTE)))
    zero_high, zero_low = divmod(int(zero_point) + shift, _BYTE)
    return [(high, zero_high), (low, zero_low)]


def join_halves(builder: Builder, high: ir.Value, low: ir.Value) -> ir.Value:
    """Write 256 * high + low in int64.

    Args:
        builder: writes the nodes.
        high: accumulators of the high halves; int32, or integer-valued float32.
        low: accumulators of the low halves, of the same shape.
    Returns:
        int64 accumulators.
    """
    wide = [builder.op("Cast", half, to=ir.DataType.INT64) for half in (high, low)]
    return builder.op("Add", builder.op("Mul", wide[0], np.int64(_BYTE)), wide[1])
