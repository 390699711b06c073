"""What the forms of a convolution cost, so that each layer gets the fastest.

    nanoseconds a position of the output = a * multiplications + b * columns + c * outputs

with, for a kernel that sees k numbers of each of g groups: multiplications = k * outputs, columns =
k * g. Measured by benchmarks/forms.py on an x86 processor with AVX2, one thread, the quantizer of
the input included; "> codes" is the cost up to the next layer's quantizer, "float32" that of the
float network's convolution. Depthwise and other grouped convolutions have numbers of their own, and
so have transposed ones and those in three dimensions.

A convolution of pictures (bridge.export.pictures) gathers all channels of a pixel at once: its
columns are the pixels that its kernels see.

A transposed convolution is counted by positions of the input. In integers it is the convolution of
bridge.export.sub_pixel; in float, columns are what it adds up, which is every product's place.
"""

from collections.abc import Sequence

import numpy as np

from bridge.export.layer import QuantizedLayer
from bridge.export.pictures import as_pictures
from bridge.export.sub_pixel import as_convolution

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of a convolution; the first one only for what goes into one quantizer."""

PICTURES = "QLinearConv in 2-D"
"""The form of bridge.export.pictures, for three dimensions and what goes into one quantizer."""

CHAINED = (QLINEAR, PICTURES)
"""The forms that compute a bridge.export.chains.Chain."""

FLOAT32 = "float32"
"""What the float network has; no form of a quantized layer."""

MEASURED_ON = "an x86 processor with AVX2, one thread"
"""Where the table holds."""

KINDS = tuple(
    f"{first}{second}"
    for first in ("", "transposed ", "3-D ")
    for second in ("dense", "depthwise", "grouped")
)
"""What kind tells apart."""

_COSTS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("float32", "dense"): (0.0229, 0.22, 0.455),
    ("float32", "depthwise"): (0.139, 0, 0),
    ("float32", "grouped"): (0.00105, 0.446, 0.988),
    ("ConvInteger", "dense"): (0.0181, 0.297, 0.963),
    ("ConvInteger", "depthwise"): (0.524, 0, 0),
    ("ConvInteger", "grouped"): (0.0148, 0.449, 0.915),
    ("ConvInteger", "transposed dense"): (0.0291, 0.193, 3.16),
    ("ConvInteger", "transposed depthwise"): (1.09, 0, 0),
    ("ConvInteger", "transposed grouped"): (0.0206, 0.253, 4.31),
    ("ConvInteger", "3-D dense"): (0.0434, 2.35, 1.16),
    ("ConvInteger", "3-D depthwise"): (2.75, 0, 0),
    ("ConvInteger", "3-D grouped"): (0.0857, 2.87, 0),
    ("integer-valued float", "dense"): (0.0238, 0.263, 1.25),
    ("integer-valued float", "depthwise"): (0.276, 0, 0),
    ("integer-valued float", "grouped"): (0, 0.487, 2.07),
    ("integer-valued float", "transposed dense"): (0.0364, 0.616, 3.63),
    ("integer-valued float", "transposed depthwise"): (0.537, 0, 3.11),
    ("integer-valued float", "transposed grouped"): (0.0437, 0.473, 2.74),
    ("integer-valued float", "3-D dense"): (0.048, 1.56, 2.12),
    ("integer-valued float", "3-D depthwise"): (1.63, 0, 0),
    ("integer-valued float", "3-D grouped"): (0.0576, 1.97, 0),
    ("QLinearConv > codes", "dense"): (0.015, 0.378, 0.979),
    ("QLinearConv > codes", "depthwise"): (0.223, 0, 0),
    ("QLinearConv > codes", "grouped"): (0, 0.917, 1),
    ("QLinearConv > codes", "transposed dense"): (0.0216, 0.619, 2.67),
    ("QLinearConv > codes", "transposed depthwise"): (4.04, 0, 0),
    ("QLinearConv > codes", "transposed grouped"): (0, 1.62, 4.64),
    ("QLinearConv > codes", "3-D dense"): (0, 3.11, 3.04),
    ("QLinearConv > codes", "3-D depthwise"): (0.747, 0, 0),
    ("QLinearConv > codes", "3-D grouped"): (0, 4.05, 0),
    ("QLinearConv in 2-D > codes", "3-D dense"): (0.0388, 13.8, 1.9),
    ("QLinearConv in 2-D > codes", "3-D depthwise"): (0.0606, 0, 0),
    ("QLinearConv in 2-D > codes", "3-D grouped"): (0.0388, 25.5, 0),
    ("ConvInteger > codes", "dense"): (0.018, 0.3, 1.23),
    ("ConvInteger > codes", "depthwise"): (0.563, 0, 0),
    ("ConvInteger > codes", "grouped"): (0.0137, 0.441, 1.32),
    ("ConvInteger > codes", "transposed dense"): (0.0301, 0.201, 3.35),
    ("ConvInteger > codes", "transposed depthwise"): (1.18, 0, 0),
    ("ConvInteger > codes", "transposed grouped"): (0.0145, 0.282, 5.08),
    ("ConvInteger > codes", "3-D dense"): (0.038, 2.6, 1.9),
    ("ConvInteger > codes", "3-D depthwise"): (2.72, 0, 0),
    ("ConvInteger > codes", "3-D grouped"): (0.0765, 3.02, 0),
    ("integer-valued float > codes", "dense"): (0.0236, 0.266, 1.56),
    ("integer-valued float > codes", "depthwise"): (0.308, 0, 0),
    ("integer-valued float > codes", "grouped"): (0, 0.461, 2.43),
    ("integer-valued float > codes", "transposed dense"): (0.0377, 0.438, 3.87),
    ("integer-valued float > codes", "transposed depthwise"): (0.185, 0, 4.55),
    ("integer-valued float > codes", "transposed grouped"): (0.041, 0.408, 3.33),
    ("integer-valued float > codes", "3-D dense"): (0.046, 1.59, 3.03),
    ("integer-valued float > codes", "3-D depthwise"): (1.7, 0, 0),
    ("integer-valued float > codes", "3-D grouped"): (0.0556, 2.02, 0),
}


def features(layer: QuantizedLayer, form: str) -> tuple[float, float, float]:
    """Return what a form's cost is linear in.

    Args:
        layer: a convolution; a transposed one has_phases.
        form: one of FORMS, or PICTURES for a layer that has_pictures.
    Returns:
        multiplications, columns and outputs, for one position.
    """
    if layer.op == "ConvTranspose" and form == FLOAT:
        inputs, channels, *kernel = layer.weight.shape
        added = channels * layer.groups * int(np.prod(kernel))
        outputs = len(as_convolution(layer).weight)
        return inputs // layer.groups * added, added, outputs
    if form == PICTURES:
        pictures = as_pictures(layer)
        outputs, *seen = pictures.weight.shape
        return outputs * int(np.prod(seen)), int(np.prod(seen[1:])) * pictures.groups, outputs
    outputs, *seen = as_convolution(layer).weight.shape
    elements = int(np.prod(seen))
    return outputs * elements, elements * layer.groups, outputs


def kind(layer: QuantizedLayer) -> str:
    """Tell convolutions apart whose costs grow differently.

    Args:
        layer: a convolution.
    Returns:
        one of KINDS.
    """
    transposed = layer.op == "ConvTranspose"
    first = "transposed " if transposed else "3-D " if layer.weight.ndim == 5 else ""
    if layer.groups == 1:
        return f"{first}dense"
    inputs = layer.weight.shape[0] // layer.groups if transposed else layer.weight.shape[1]
    return f"{first}{'depthwise' if inputs == 1 else 'grouped'}"


def estimates(layer: QuantizedLayer, forms: Sequence[str], *, chained: bool) -> dict[str, float]:
    """Estimate what a convolution costs.

    Args:
        layer: a convolution; a transposed one has_phases.
        forms: those of FORMS and PICTURES that it can take.
        chained: whether it goes into one quantizer, and QLinearConv is proven equal.
    Returns:
        nanoseconds a position, by form; with FLOAT32 where the table has it.
    """

    def cost(form: str) -> float:
        numbers = features(layer, FLOAT if form == FLOAT32 else form)
        key = (f"{form} > codes" if chained and form != FLOAT32 else form, kind(layer))
        return sum(c * n for c, n in zip(_COSTS[key], numbers, strict=True))

    known = (FLOAT32, kind(layer)) in _COSTS
    return {form: cost(form) for form in (*forms, *([FLOAT32] if known else []))}
