"""What follows the integer sums in every form of a layer, the same in fake-quant and deploy."""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.read.layer import QuantizedLayer


def write_tail(builder: Builder, layer: QuantizedLayer, sums: ir.Value) -> None:
    """Write y = float32(sums + bias) * rescale (+ shift) and let y replace the layer's output.

    The cast to float stands between the operator and the multiplication, so no optimizer can
    fold the scale into the weights; the bias is added in integers, in no rounding at all.

    Args:
        builder: writes the nodes.
        layer: the layer.
        sums: int32, or int64 for 16-bit inputs.
    """
    if layer.bias is not None:
        dtype = np.int64 if layer.wide else np.int32
        sums = builder.op("Add", sums, per_output_shape(layer.bias.astype(dtype), layer))
    y = builder.op("Cast", sums, to=ir.DataType.FLOAT)
    write_shift(builder, layer, builder.op("Mul", y, per_output_shape(layer.rescale, layer)))


def write_shift(builder: Builder, layer: QuantizedLayer, y: ir.Value) -> None:
    """Add the shift of a folded BatchNormalization and let the sum replace the layer's output.

    Args:
        builder: writes the nodes.
        layer: the layer.
        y: its sums, rescaled.
    """
    if layer.norm is not None:
        y = builder.op("Add", y, per_output_shape(layer.norm.shift, layer))
    builder.replace_output(y)


def per_output_shape(values: Array, layer: QuantizedLayer) -> Array:
    """Shape one value an output channel so that it broadcasts to the layer's output.

    Args:
        values: (out,) or (1,).
        layer: whose output is meant.
    Returns:
        (out, 1, ...) for a convolution, (out,) for a MatMul; () for one value.
    """
    if values.size == 1:
        return values.reshape(())
    return values.reshape(-1, *(1,) * (layer.weight.ndim - 2)) if layer.op != "MatMul" else values
