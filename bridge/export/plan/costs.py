"""A linear cost model of the forms of a convolution.

    nanoseconds per output position = a * multiplications + b * columns + c * outputs

outputs is the number of output channels. For a kernel of k weights per output channel and g groups,
multiplications = k * outputs and columns = k * g, the length of an im2col row. The coefficients
were fitted by benchmarks/forms.py in one run on an x86 processor with AVX2 and one thread. They
include the quantizer of the input; "> codes" also includes the next layer's quantizer. "float32"
is the convolution of the float network. Dense, depthwise and grouped convolutions, transposed ones
and 3-D ones have separate coefficients.

The 2-D form of a 3-D convolution (geometry.conv3d) copies all channels of a pixel at once, so its
columns are the pixels under its kernel.

For a transposed convolution, positions are those of the input. In integers its cost is that of the
sub-pixel convolution (geometry.conv_transpose). In float, columns are the values that it adds into
the output (col2im).
"""

from collections.abc import Sequence

import numpy as np

from bridge.export.geometry.conv3d import as_conv2d
from bridge.export.geometry.conv_transpose import as_convolution
from bridge.export.read.layer import QuantizedLayer

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of any convolution; the first needs a chain (requantization.chains)."""

QLINEAR_2D = "QLinearConv in 2-D"
"""The 2-D form of a 3-D convolution (geometry.conv3d); it needs a chain too."""

CHAINED = (QLINEAR, QLINEAR_2D)
"""The forms that need a chain, whose codes they compute."""

FLOAT32 = "float32"
"""The float network's convolution; not a form of a quantized layer."""

MEASURED_ON = "an x86 processor with AVX2, one thread"
"""The processor whose times the coefficients were fitted to."""

KINDS = tuple(
    f"{first}{second}"
    for first in ("", "transposed ", "3-D ")
    for second in ("dense", "depthwise", "grouped")
)
"""The kinds of convolutions that have separate coefficients."""

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
    """Return the features of the cost model.

    Args:
        layer: a convolution; a transposed one can_be_convolution.
        form: one of FORMS, or QLINEAR_2D for a layer that can_be_conv2d.
    Returns:
        multiplications, columns and outputs, for one position.
    """
    if layer.op == "ConvTranspose" and form == FLOAT:
        inputs, channels, *kernel = layer.weight.shape
        added = channels * layer.groups * int(np.prod(kernel))
        outputs = len(as_convolution(layer).weight)
        return inputs // layer.groups * added, added, outputs
    if form == QLINEAR_2D:
        conv2d = as_conv2d(layer)
        outputs, *kernel = conv2d.weight.shape
        return outputs * int(np.prod(kernel)), int(np.prod(kernel[1:])) * conv2d.groups, outputs
    outputs, *kernel = as_convolution(layer).weight.shape
    elements = int(np.prod(kernel))
    return outputs * elements, elements * layer.groups, outputs


def kind(layer: QuantizedLayer) -> str:
    """Return the kind of a convolution, which selects its coefficients.

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
    """Estimate the cost of a convolution in each form.

    Args:
        layer: a convolution; a transposed one can_be_convolution.
        forms: those of FORMS and QLINEAR_2D that it can take.
        chained: whether it has a chain, that is, QLinearConv is proven equal.
    Returns:
        nanoseconds per position, by form and for FLOAT32.
    """

    def cost(form: str) -> float:
        sizes = features(layer, FLOAT if form == FLOAT32 else form)
        key = (f"{form} > codes" if chained and form != FLOAT32 else form, kind(layer))
        return sum(c * n for c, n in zip(_COSTS[key], sizes, strict=True))

    return {form: cost(form) for form in (*forms, FLOAT32)}
