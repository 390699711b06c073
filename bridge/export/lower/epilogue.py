"""Epilogue: from the accumulators of a layer to its float output, equal in both models.

    Conv | ConvTranspose | Gemm | MatMul -> y
        becomes
    integer operator -> (Add(bias)) -> Cast(float32) -> Mul(rescale) -> (Add(shift)) -> y

with rescale = scale_x * scale_w, and a shift where a BatchNormalization is folded. The bias is
added in integers, without a rounding. The Cast keeps optimizers from folding the Mul into the
weights, which would change the bits.
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer


def write_epilogue(builder: Builder, layer: QuantizedLayer, sums: ir.Value) -> None:
    """Replace a layer's output by y = float32(sums + bias) * rescale (+ shift).

    Args:
        builder: writes the nodes.
        layer: the layer.
        sums: accumulators without the bias, in the output's shape; int32, or int64 for 16-bit
            inputs.
    """
    if layer.bias is not None:
        dtype = np.int64 if layer.wide else np.int32
        sums = builder.op("Add", sums, per_channel(layer.bias.astype(dtype), layer))
    y = builder.op("Cast", sums, to=ir.DataType.FLOAT)
    write_shift(builder, layer, builder.op("Mul", y, per_channel(layer.rescale, layer)))


def write_shift(builder: Builder, layer: QuantizedLayer, y: ir.Value) -> None:
    """Replace a layer's output by y, plus the shift of a folded BatchNormalization.

    Args:
        builder: writes the nodes.
        layer: the layer.
        y: float32, the rescaled accumulators.
    """
    if layer.norm is not None:
        y = builder.op("Add", y, per_channel(layer.norm.shift, layer))
    builder.replace_output(y)


def per_channel(values: Array, layer: QuantizedLayer) -> Array:
    """Shape per-channel values so that they broadcast to the layer's output.

    Args:
        values: (out,) or (1,), any dtype.
        layer: the layer.
    Returns:
        the values, (out, 1, ...) for a convolution, (out,) for a MatMul, () for a single value.
    """
    if values.size == 1:
        return values.reshape(())
    return values.reshape(-1, *(1,) * (layer.weight.ndim - 2)) if layer.op != "MatMul" else values
