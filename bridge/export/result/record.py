"""Quantization factors as an AMCT record file, in protobuf text format."""

from collections.abc import Iterable

import numpy as np

from bridge.export.read.layer import QuantizedLayer, signed_zero_point
from bridge.export.read.zero_points import UINT8_SHIFT, uint8_zero_point


def record_text(layers: Iterable[QuantizedLayer]) -> str:
    """Return the quantization factors of layers as protobuf text.

    One `record` per layer: its key is the layer's name, its value has scale_d and offset_d of the
    input and scale_w and offset_w of each output channel. Scales have enough digits to be read
    back as the same float32.

    Args:
        layers: the quantized layers.
    Returns:
        the text.
    """
    return "".join(_record(layer) for layer in layers)


def _record(layer: QuantizedLayer) -> str:
    # int8 weights have the offset 0; the uint8 zero point of others is shifted to int8.
    offset = uint8_zero_point(layer.weight) - UINT8_SHIFT if layer.weight.dtype != np.int8 else 0
    lines = [
        *(f"scale_d: {_number(scale)}" for scale in np.unique(layer.scale_x)),
        f"offset_d: {signed_zero_point(layer.zero_point_x)}",
        *(f"scale_w: {_number(scale)}" for scale in layer.scale_w),
        *(f"offset_w: {offset}" for _ in layer.scale_w),
    ]
    body = "\n".join(f"    {line}" for line in lines)
    name = layer.name.replace("\\", "\\\\").replace('"', '\\"')
    return f'record {{\n  key: "{name}"\n  value {{\n{body}\n  }}\n}}\n'


def _number(value: np.float32) -> str:
    return np.format_float_scientific(value, unique=True)
