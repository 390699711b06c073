"""The quantization factors as a record file, in the text form of the reference's tools."""

from collections.abc import Iterable

import numpy as np

from bridge.export.read.layer import QuantizedLayer, signed_zero_point
from bridge.export.read.zero_points import UINT8_SHIFT, uint8_zero_point


def record_text(layers: Iterable[QuantizedLayer]) -> str:
    """Return the factors of layers as protobuf text.

    One `record` a layer: key, the layer's name; value, scale_d and offset_d of the input,
    scale_w and offset_w of each output channel, as float32 numbers that read back exactly.

    Args:
        layers: as read.
    Returns:
        the text.
    """
    return "".join(_record(layer) for layer in layers)


def _record(layer: QuantizedLayer) -> str:
    # As weights that int8 holds are stored as int8, without an offset.
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
