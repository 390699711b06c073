"""What follows the integer sums in every form of a layer, the same in fake-quant and deploy."""

import numpy as np
import onnx_ir as ir

from bridge.export.layer import QuantizedLayer
from bridge.export.scribe import Scribe, per_output_shape


def write_tail(scribe: Scribe, layer: QuantizedLayer, sums: ir.Value) -> None:
    """Write y = float32(sums + bias) * rescale (+ shift) and let y replace the layer's output.

    The cast to float stands between the operator and the multiplication, so no optimizer can
    fold the scale into the weights; the bias is added in integers, in no rounding at all.

    Args:
        scribe: writes the nodes.
        layer: the layer.
        sums: int32, or int64 for 16-bit inputs.
    """
    if layer.bias is not None:
        dtype = np.int64 if layer.wide else np.int32
        sums = scribe.op("Add", sums, per_output_shape(layer.bias.astype(dtype), layer))
    y = scribe.op("Cast", sums, to=ir.DataType.FLOAT)
    write_shift(scribe, layer, scribe.op("Mul", y, per_output_shape(layer.rescale, layer)))


def write_shift(scribe: Scribe, layer: QuantizedLayer, y: ir.Value) -> None:
    """Add the shift of a folded BatchNormalization and let the sum replace the layer's output.

    Args:
        scribe: writes the nodes.
        layer: the layer.
        y: its sums, rescaled.
    """
    if layer.norm is not None:
        y = scribe.op("Add", y, per_output_shape(layer.norm.shift, layer))
    scribe.replace_output(y)
