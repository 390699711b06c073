"""Inputs and outputs of quantized layers, as their files hold them."""

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.lower.epilogue import per_channel
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import Operand, QuantizedProduct
from bridge.export.running.runtime import Feeds

Quantized = QuantizedLayer | QuantizedProduct


def operands_of(what: Quantized) -> tuple[Operand, ...]:
    """List what is quantized at the inputs of a layer.

    Args:
        what: as read.
    Returns:
        one operand of a layer with weights, two of a product.
    """
    if isinstance(what, QuantizedProduct):
        return what.operands
    return (Operand(what.pair, np.float32(what.scale_x.max()), what.zero_point_x),)


def accumulator_step(what: Quantized) -> Array:
    """Return what one step of the accumulator is in the output.

    Args:
        what: as read.
    Returns:
        float32, broadcast to the output.
    """
    if isinstance(what, QuantizedProduct):
        return np.asarray(what.rescale)
    return per_channel(what.rescale, what)


def float_input(operand: Operand, values: Feeds) -> Array | None:
    """Find what an operand is quantized from among the values of a model.

    Args:
        operand: as read.
        values: by name.
    Returns:
        the float array, None if the model has no such value.
    """
    producer = operand.x_q.producer()
    source = None if producer is None or not producer.inputs else producer.inputs[0]
    return None if source is None else values.get(source.name or "")


def codes_in(operand: Operand, values: Feeds) -> Array | None:
    """Find the codes of an operand among the values of a model.

    Args:
        operand: as read.
        values: by name.
    Returns:
        codes, integer-valued float32; None if the model has neither them nor what they come from.
    """
    x = float_input(operand, values)
    if x is not None and x.dtype.kind == "f":
        return codes_of(x, operand)
    stored = values.get(operand.x_q.name or "")
    if stored is None:
        return None
    # Count as the operand's type does, whatever type a model holds them in.
    shift = np.iinfo(stored.dtype).min - np.iinfo(operand.zero_point.dtype).min
    return stored.astype(np.float32) - np.float32(shift)


def codes_of(x: Array, operand: Operand) -> Array:
    """Quantize as an operand does.

    Args:
        x: float.
        operand: as read.
    Returns:
        codes, integer-valued floats; NaN stays.
    """
    info = np.iinfo(operand.zero_point.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.rint(x / operand.scale) + int(operand.zero_point)
    return np.clip(rounded, info.min, info.max)


def largest_accumulator(output: Array, step: Array) -> int:
    """Return the largest |accumulator| that an output comes from.

    Args:
        output: of a layer.
        step: accumulator_step of it.
    Returns:
        of what is finite the largest, 0 if nothing is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.rint(np.abs(output) / step)
    return int(sums[np.isfinite(sums)].max(initial=0))
