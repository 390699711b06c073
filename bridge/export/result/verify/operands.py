"""Codes of the inputs, and accumulators of the outputs, of quantized layers in their files."""

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.lower.epilogue import per_channel
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import Operand, QuantizedProduct
from bridge.export.running.runtime import Feeds

Quantized = QuantizedLayer | QuantizedProduct


def operands_of(layer: Quantized) -> tuple[Operand, ...]:
    """List the quantized inputs of a layer or product.

    Args:
        layer: the layer or product.
    Returns:
        one operand for a layer with weights, two for a product.
    """
    if isinstance(layer, QuantizedProduct):
        return layer.operands
    return (Operand(layer.pair, np.float32(layer.scale_x.max()), layer.zero_point_x),)


def accumulator_step(layer: Quantized) -> Array:
    """Return the change of the output when the accumulator changes by 1.

    Args:
        layer: the layer or product.
    Returns:
        float32 rescale factors that broadcast to the output.
    """
    if isinstance(layer, QuantizedProduct):
        return np.asarray(layer.rescale)
    return per_channel(layer.rescale, layer)


def float_input(operand: Operand, values: Feeds) -> Array | None:
    """Find the float input of an operand's QuantizeLinear among the values of a model.

    Args:
        operand: the operand.
        values: values of the model, by name.
    Returns:
        the float array; None if the model has no such value.
    """
    producer = operand.x_q.producer()
    source = None if producer is None or not producer.inputs else producer.inputs[0]
    return None if source is None else values.get(source.name or "")


def codes_in(operand: Operand, values: Feeds) -> Array | None:
    """Find or compute the codes of an operand from the values of a model.

    Args:
        operand: the operand.
        values: values of the model, by name.
    Returns:
        codes, integer-valued floats; None if the model has neither them nor the float input.
    """
    x = float_input(operand, values)
    if x is not None and x.dtype.kind == "f":
        return codes_of(x, operand)
    stored = values.get(operand.x_q.name or "")
    if stored is None:
        return None
    # The model may hold uint8 codes of an int8 operand, and vice versa.
    shift = np.iinfo(stored.dtype).min - np.iinfo(operand.zero_point.dtype).min
    return stored.astype(np.float32) - np.float32(shift)


def codes_of(x: Array, operand: Operand) -> Array:
    """Quantize a float array with an operand's scale and zero point.

    Args:
        x: float, any shape.
        operand: the operand.
    Returns:
        codes, integer-valued floats of the same shape; NaN where x is NaN.
    """
    info = np.iinfo(operand.zero_point.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.rint(x / operand.scale) + int(operand.zero_point)
    return np.clip(rounded, info.min, info.max)


def largest_accumulator(output: Array, step: Array) -> int:
    """Return the largest |accumulator| of a layer, from its output.

    Args:
        output: of the layer, float.
        step: from accumulator_step.
    Returns:
        the largest finite one; 0 if none is finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.rint(np.abs(output) / step)
    return int(sums[np.isfinite(sums)].max(initial=0))
