"""A layer on integer-valued floats: the fake-quant form, and deploy's where no integer operator is.

x_q -> DequantizeLinear(scale 1) -> op(integer-valued weight) -> Cast int32 -> tail
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.output_padding import with_valid_output_padding
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.lower.epilogue import per_output_shape, write_shift, write_tail
from bridge.export.lower.int16 import join_halves, split_input
from bridge.export.read.layer import QuantizedLayer


def write_fake(builder: Builder, layer: QuantizedLayer) -> None:
    """Write a layer with a float32 weight that holds integers.

    Args:
        builder: writes the nodes.
        layer: the layer.
    """
    layer = with_valid_output_padding(layer)
    _write(builder, layer, layer.weight.astype(np.float32))


def write_float_deploy(builder: Builder, layer: QuantizedLayer) -> None:
    """Write a layer with an int8 weight that is cast to float when the model is loaded.

    Where float32 sums are proven exact, the bias is summed with the products, and a Round, which
    changes nothing, stands where the casts do: it too keeps the scale out of the weights.

    Args:
        builder: writes the nodes.
        layer: the layer.
    """
    layer = with_valid_output_padding(layer)
    weight = builder.op("Cast", layer.weight, to=ir.DataType.FLOAT)
    if layer.wide or not layer.proven or layer.op == "MatMul":
        _write(builder, layer, weight)
        return
    x = builder.op("DequantizeLinear", layer.x_q, np.float32(1.0), layer.zero_point_x)
    # A bias of +0.0 where there is none: sums of zeros are +0.0 then, as integers' are.
    channels = len(layer.accumulator_bounds)
    bias = np.zeros(channels) if layer.bias is None else layer.bias
    sums = builder.op(layer.op, x, weight, bias.astype(np.float32), **layer.attributes)
    y = builder.op("Round", sums)
    write_shift(builder, layer, builder.op("Mul", y, per_output_shape(layer.rescale, layer)))


def _write(builder: Builder, layer: QuantizedLayer, weight: Array | ir.Value) -> None:
    def op(x: ir.Value) -> ir.Value:
        return builder.op(layer.op, x, weight, **layer.attributes)

    write_tail(builder, layer, _sums(builder, layer, op))


def _sums(builder: Builder, layer: QuantizedLayer, op: Callable[[ir.Value], ir.Value]) -> ir.Value:
    if not layer.wide:
        x = builder.op("DequantizeLinear", layer.x_q, np.float32(1.0), layer.zero_point_x)
        return builder.op("Cast", op(x), to=ir.DataType.INT32)
    halves = []
    for half, zero_point in split_input(builder, layer):
        centered = builder.op("Sub", half, np.int32(zero_point))
        halves.append(op(builder.op("Cast", centered, to=ir.DataType.FLOAT)))
    return join_halves(builder, *halves)
