"""A layer on integer-valued floats: the fake-quant form, and deploy's where no integer operator is.

x_q -> DequantizeLinear(scale 1) -> op(integer-valued weight) -> Cast int32 -> tail
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array
from bridge.export.float_operator import write_operator
from bridge.export.reader import QuantizedLayer
from bridge.export.scribe import Scribe
from bridge.export.tail import write_tail
from bridge.export.wide import join_halves, split_input


def write_fake(scribe: Scribe, layer: QuantizedLayer) -> None:
    """Write a layer with a float32 weight that holds integers.

    Args:
        scribe: writes the nodes.
        layer: the layer.
    """
    _write(scribe, layer, layer.weight.astype(np.float32))


def write_float_deploy(scribe: Scribe, layer: QuantizedLayer) -> None:
    """Write a layer with an int8 weight that is cast to float when the model is loaded.

    Args:
        scribe: writes the nodes.
        layer: the layer.
    """
    _write(scribe, layer, scribe.op("Cast", layer.weight, to=ir.DataType.FLOAT))


def _write(scribe: Scribe, layer: QuantizedLayer, weight: Array | ir.Value) -> None:
    def op(x: ir.Value) -> ir.Value:
        return write_operator(scribe, layer, x, weight)

    write_tail(scribe, layer, _sums(scribe, layer, op))


def _sums(scribe: Scribe, layer: QuantizedLayer, op: Callable[[ir.Value], ir.Value]) -> ir.Value:
    if not layer.wide:
        x = scribe.op("DequantizeLinear", layer.x_q, np.float32(1.0), layer.zero_point_x)
        return scribe.op("Cast", op(x), to=ir.DataType.INT32)
    halves = []
    for half, zero_point in split_input(scribe, layer):
        centered = scribe.op("Sub", half, np.int32(zero_point))
        halves.append(op(scribe.op("Cast", centered, to=ir.DataType.FLOAT)))
    return join_halves(scribe, *halves)
