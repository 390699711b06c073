"""A layer on integer-valued float32: the fake-quant form, and a deploy form.

    x_q -> DequantizeLinear -> op(DequantizeLinear(weight), bias) -> y
        becomes, in fake-quant,
    x_q -> DequantizeLinear(scale 1) -> op(float32 weight) -> Cast(int32) -> epilogue -> y
        and in deploy
    x_q -> DequantizeLinear(scale 1) -> op(Cast(int8 weight), bias) -> Round -> Mul(rescale) -> y

op is Conv, ConvTranspose, Gemm or MatMul. Its operands are integers in float32, so its sums are
exact up to 2^24 and equal those of an integer operator. Deploy takes this form where ONNX Runtime
has no integer operator, or a slower one. For MatMul, 16-bit inputs and sums that are not proven
exact it has the Cast and the epilogue of fake-quant instead of Round and Mul.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.output_padding import with_valid_output_padding
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.lower.epilogue import per_channel, write_epilogue, write_shift
from bridge.export.lower.int16 import join_halves, split_input
from bridge.export.read.layer import QuantizedLayer


def write_fake(builder: Builder, layer: QuantizedLayer) -> None:
    """Write the fake-quant form of a layer, with a float32 weight that holds integers.

    Args:
        builder: writes the nodes.
        layer: the layer.
    """
    layer = with_valid_output_padding(layer)
    _write(builder, layer, layer.weight.astype(np.float32))


def write_float_deploy(builder: Builder, layer: QuantizedLayer) -> None:
    """Write the deploy form of a layer, with an int8 weight that is cast to float at load time.

    Where float32 sums are proven exact, the operator adds the bias, and a Round takes the place of
    the Casts. It changes no value; like a Cast it keeps optimizers from folding rescale into the
    weight.

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
    # Without a bias, add +0.0: it turns a sum of -0.0 into +0.0, the only zero of integers.
    channels = len(layer.accumulator_bounds)
    bias = np.zeros(channels) if layer.bias is None else layer.bias
    sums = builder.op(layer.op, x, weight, bias.astype(np.float32), **layer.attributes)
    y = builder.op("Round", sums)
    write_shift(builder, layer, builder.op("Mul", y, per_channel(layer.rescale, layer)))


def _write(builder: Builder, layer: QuantizedLayer, weight: Array | ir.Value) -> None:
    def op(x: ir.Value) -> ir.Value:
        return builder.op(layer.op, x, weight, **layer.attributes)

    write_epilogue(builder, layer, _sums(builder, layer, op))


def _sums(builder: Builder, layer: QuantizedLayer, op: Callable[[ir.Value], ir.Value]) -> ir.Value:
    if not layer.wide:
        x = builder.op("DequantizeLinear", layer.x_q, np.float32(1.0), layer.zero_point_x)
        return builder.op("Cast", op(x), to=ir.DataType.INT32)
    halves = []
    for half, zero_point in split_input(builder, layer):
        centered = builder.op("Sub", half, np.int32(zero_point))
        halves.append(op(builder.op("Cast", centered, to=ir.DataType.FLOAT)))
    return join_halves(builder, *halves)
