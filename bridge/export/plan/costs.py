"""What the forms of a convolution cost, so that each layer gets the fastest.

    nanoseconds a position of the output = a * multiplications + b * columns + c * outputs

with, for a kernel that sees k numbers of each of g groups: multiplications = k * outputs, columns =
k * g. Measured by benchmarks/forms.py in one run on an x86 processor with AVX2, one thread, the
quantizer of the input included; "> codes" is the cost up to the next layer's quantizer, "float32"
that of the float network's convolution. Depthwise and other grouped convolutions have numbers of
their own, and so have transposed ones and those in three dimensions.

A convolution of pictures (geometry.conv3d) gathers all channels of a pixel at once: its
columns are the pixels that its kernels see.

A transposed convolution is counted by positions of the input. In integers it is the convolution of
geometry.conv_transpose; in float, columns are what it adds up, which is every product's place.
"""

from collections.abc import Sequence

import numpy as np

from bridge.export.geometry.conv3d import as_conv2d
from bridge.export.geometry.conv_transpose import as_convolution
from bridge.export.read.layer import QuantizedLayer

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of a convolution; the first one only for what goes into one quantizer."""

PICTURES = "QLinearConv in 2-D"
"""The form of geometry.conv3d, for three dimensions and what goes into one quantizer."""

CHAINED = (QLINEAR, PICTURES)
"""The forms that compute a bridge.export.requantization.chains.Chain."""

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
    ("float32", "dense"): (0.0354, 0.419, 1.35),
    ("float32", "depthwise"): (0.299, 0, 0),
    ("float32", "grouped"): (0, 0.918, 2.14),
    ("float32", "transposed dense"): (0.042, 1.34, 0.604),
    ("float32", "transposed depthwise"): (0.667, 0, 3.85),
    ("float32", "transposed grouped"): (0.0623, 0.741, 0.855),
    ("float32", "3-D dense"): (0.0474, 1.01, 1.61),
    ("float32", "3-D depthwise"): (1.27, 0, 0),
    ("float32", "3-D grouped"): (0.0277, 1.72, 0),
    ("ConvInteger", "dense"): (0.0317, 0.64, 1.99),
    ("ConvInteger", "depthwise"): (1.22, 0, 0),
    ("ConvInteger", "grouped"): (0.036, 0.945, 1.86),
    ("ConvInteger", "transposed dense"): (0.041, 0.587, 2.42),
    ("ConvInteger", "transposed depthwise"): (1.55, 0, 0),
    ("ConvInteger", "transposed grouped"): (0.0326, 0.719, 3.72),
    ("ConvInteger", "3-D dense"): (0.0447, 1.78, 1.62),
    ("ConvInteger", "3-D depthwise"): (2.41, 0, 0),
    ("ConvInteger", "3-D grouped"): (0.0194, 2.67, 0),
    ("integer-valued float", "dense"): (0.0372, 0.51, 2.65),
    ("integer-valued float", "depthwise"): (0.539, 0, 0),
    ("integer-valued float", "grouped"): (0, 0.845, 4.15),
    ("integer-valued float", "transposed dense"): (0.0411, 1.41, 1.91),
    ("integer-valued float", "transposed depthwise"): (0.73, 0, 4.84),
    ("integer-valued float", "transposed grouped"): (0.0621, 0.781, 1.9),
    ("integer-valued float", "3-D dense"): (0.0492, 1.09, 2.4),
    ("integer-valued float", "3-D depthwise"): (1.4, 0, 0),
    ("integer-valued float", "3-D grouped"): (0.0625, 1.53, 0),
    ("QLinearConv > codes", "dense"): (0.0242, 0.847, 2.27),
    ("QLinearConv > codes", "depthwise"): (0.438, 0, 0),
    ("QLinearConv > codes", "grouped"): (0, 1.97, 2.19),
    ("QLinearConv > codes", "transposed dense"): (0.0261, 1.07, 2.16),
    ("QLinearConv > codes", "transposed depthwise"): (6.39, 0, 0),
    ("QLinearConv > codes", "transposed grouped"): (0, 2.84, 3.77),
    ("QLinearConv > codes", "3-D dense"): (0, 2.45, 3.73),
    ("QLinearConv > codes", "3-D depthwise"): (0.71, 0, 0),
    ("QLinearConv > codes", "3-D grouped"): (0, 3.29, 0),
    ("ConvInteger > codes", "dense"): (0.0322, 0.656, 2.41),
    ("ConvInteger > codes", "depthwise"): (1.3, 0, 0),
    ("ConvInteger > codes", "grouped"): (0.0383, 0.969, 2.21),
    ("ConvInteger > codes", "transposed dense"): (0.0407, 0.584, 2.72),
    ("ConvInteger > codes", "transposed depthwise"): (1.7, 0, 0),
    ("ConvInteger > codes", "transposed grouped"): (0.0354, 0.776, 3.83),
    ("ConvInteger > codes", "3-D dense"): (0.041, 1.92, 2.2),
    ("ConvInteger > codes", "3-D depthwise"): (2.44, 0, 0),
    ("ConvInteger > codes", "3-D grouped"): (0.0712, 2.6, 0),
    ("integer-valued float > codes", "dense"): (0.037, 0.548, 3.09),
    ("integer-valued float > codes", "depthwise"): (0.6, 0, 0),
    ("integer-valued float > codes", "grouped"): (0, 0.885, 4.65),
    ("integer-valued float > codes", "transposed dense"): (0.0424, 1.35, 2.48),
    ("integer-valued float > codes", "transposed depthwise"): (0.76, 0, 5.37),
    ("integer-valued float > codes", "transposed grouped"): (0.0617, 0.853, 2.33),
    ("integer-valued float > codes", "3-D dense"): (0.0493, 1.16, 2.97),
    ("integer-valued float > codes", "3-D depthwise"): (1.43, 0, 0),
    ("integer-valued float > codes", "3-D grouped"): (0.0345, 1.79, 0),
    ("QLinearConv in 2-D > codes", "3-D dense"): (0.0346, 15.1, 0),
    ("QLinearConv in 2-D > codes", "3-D depthwise"): (0.0541, 0, 0),
    ("QLinearConv in 2-D > codes", "3-D grouped"): (0.0337, 21.6, 0),
}


def features(layer: QuantizedLayer, form: str) -> tuple[float, float, float]:
    """Return what a form's cost is linear in.

    Args:
        layer: a convolution; a transposed one can_be_convolution.
        form: one of FORMS, or PICTURES for a layer that can_be_conv2d.
    Returns:
        multiplications, columns and outputs, for one position.
    """
    if layer.op == "ConvTranspose" and form == FLOAT:
        inputs, channels, *kernel = layer.weight.shape
        added = channels * layer.groups * int(np.prod(kernel))
        outputs = len(as_convolution(layer).weight)
        return inputs // layer.groups * added, added, outputs
    if form == PICTURES:
        pictures = as_conv2d(layer)
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
        layer: a convolution; a transposed one can_be_convolution.
        forms: those of FORMS and PICTURES that it can take.
        chained: whether it goes into one quantizer, and QLinearConv is proven equal.
    Returns:
        nanoseconds a position, by form, and FLOAT32's.
    """

    def cost(form: str) -> float:
        numbers = features(layer, FLOAT if form == FLOAT32 else form)
        key = (f"{form} > codes" if chained and form != FLOAT32 else form, kind(layer))
        return sum(c * n for c, n in zip(_COSTS[key], numbers, strict=True))

    return {form: cost(form) for form in (*forms, FLOAT32)}
