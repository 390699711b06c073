"""What the forms of a convolution cost, so that each layer gets the fastest.

    nanoseconds a position of the output = a * multiplications + b * columns + c * outputs

with, for a kernel that sees k numbers of each of g groups: multiplications = k * outputs, columns =
k * g. Measured by benchmarks/forms.py in one run on an x86 processor with AVX2, one thread, the
quantizer of the input included; "> codes" is the cost up to the next layer's quantizer, "float32"
that of the float network's convolution. Depthwise and other grouped convolutions have numbers of
their own, and so have transposed ones and those in three dimensions.

A transposed convolution is counted by positions of the input. In integers it is the convolution of
bridge.export.sub_pixel; in float, columns are what it adds up, which is every product's place.
"""

from collections.abc import Sequence

import numpy as np

from bridge.export.layer import QuantizedLayer
from bridge.export.sub_pixel import as_convolution

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of a convolution; the first one only for what goes into one quantizer."""

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
    ("float32", "dense"): (0.0389, 0.479, 1.5),
    ("float32", "depthwise"): (0.349, 0, 0),
    ("float32", "grouped"): (0, 0.999, 2.52),
    ("float32", "transposed dense"): (0.044, 1.53, 0.841),
    ("float32", "transposed depthwise"): (0.83, 0, 4.06),
    ("float32", "transposed grouped"): (0.0681, 0.812, 0.986),
    ("float32", "3-D dense"): (0.0543, 1.1, 1.65),
    ("float32", "3-D depthwise"): (1.43, 0, 0),
    ("float32", "3-D grouped"): (0.0578, 1.84, 0),
    ("ConvInteger", "dense"): (0.0354, 0.735, 2.24),
    ("ConvInteger", "depthwise"): (1.36, 0, 0),
    ("ConvInteger", "grouped"): (0.0361, 1.11, 2.22),
    ("ConvInteger", "transposed dense"): (0.0428, 0.621, 2.85),
    ("ConvInteger", "transposed depthwise"): (1.71, 0, 0),
    ("ConvInteger", "transposed grouped"): (0.0357, 0.816, 4.07),
    ("ConvInteger", "3-D dense"): (0.0515, 2.04, 1.62),
    ("ConvInteger", "3-D depthwise"): (2.68, 0, 0),
    ("ConvInteger", "3-D grouped"): (0.0935, 2.83, 0),
    ("integer-valued float", "dense"): (0.0403, 0.565, 3.13),
    ("integer-valued float", "depthwise"): (0.621, 0, 0),
    ("integer-valued float", "grouped"): (0, 0.965, 4.6),
    ("integer-valued float", "transposed dense"): (0.0444, 1.47, 2.33),
    ("integer-valued float", "transposed depthwise"): (0.761, 0, 5.59),
    ("integer-valued float", "transposed grouped"): (0.0675, 0.841, 2.29),
    ("integer-valued float", "3-D dense"): (0.0578, 1.09, 2.64),
    ("integer-valued float", "3-D depthwise"): (1.6, 0, 0),
    ("integer-valued float", "3-D grouped"): (0.0632, 1.93, 0),
    ("QLinearConv > codes", "dense"): (0.0266, 0.984, 2.48),
    ("QLinearConv > codes", "depthwise"): (0.501, 0, 0),
    ("QLinearConv > codes", "grouped"): (0, 2.26, 2.33),
    ("QLinearConv > codes", "transposed dense"): (0.0269, 1.19, 2.76),
    ("QLinearConv > codes", "transposed depthwise"): (7.22, 0, 0),
    ("QLinearConv > codes", "transposed grouped"): (0, 3.28, 4.15),
    ("QLinearConv > codes", "3-D dense"): (0.00215, 2.62, 3.98),
    ("QLinearConv > codes", "3-D depthwise"): (0.769, 0, 0),
    ("QLinearConv > codes", "3-D grouped"): (0, 4.01, 0),
    ("ConvInteger > codes", "dense"): (0.0354, 0.748, 2.66),
    ("ConvInteger > codes", "depthwise"): (1.43, 0, 0),
    ("ConvInteger > codes", "grouped"): (0.0299, 1.2, 2.72),
    ("ConvInteger > codes", "transposed dense"): (0.0428, 0.646, 3.12),
    ("ConvInteger > codes", "transposed depthwise"): (1.9, 0, 0),
    ("ConvInteger > codes", "transposed grouped"): (0.0361, 0.862, 4.47),
    ("ConvInteger > codes", "3-D dense"): (0.0452, 2.36, 2.14),
    ("ConvInteger > codes", "3-D depthwise"): (2.7, 0, 0),
    ("ConvInteger > codes", "3-D grouped"): (0.0847, 3.02, 0),
    ("integer-valued float > codes", "dense"): (0.0398, 0.605, 3.59),
    ("integer-valued float > codes", "depthwise"): (0.675, 0, 0),
    ("integer-valued float > codes", "grouped"): (0, 1.02, 4.96),
    ("integer-valued float > codes", "transposed dense"): (0.0446, 1.36, 3.03),
    ("integer-valued float > codes", "transposed depthwise"): (0.831, 0, 5.96),
    ("integer-valued float > codes", "transposed grouped"): (0.0664, 0.881, 2.82),
    ("integer-valued float > codes", "3-D dense"): (0.0567, 1.14, 3.25),
    ("integer-valued float > codes", "3-D depthwise"): (1.61, 0, 0),
    ("integer-valued float > codes", "3-D grouped"): (0.0544, 2.06, 0),
}


def features(layer: QuantizedLayer, form: str) -> tuple[float, float, float]:
    """Return what a form's cost is linear in.

    Args:
        layer: a convolution; a transposed one has_phases.
        form: one of FORMS.
    Returns:
        multiplications, columns and outputs, for one position.
    """
    if layer.op == "ConvTranspose" and form == FLOAT:
        inputs, channels, *kernel = layer.weight.shape
        added = channels * layer.groups * int(np.prod(kernel))
        outputs = len(as_convolution(layer).weight)
        return inputs // layer.groups * added, added, outputs
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
        forms: those of FORMS that it can take.
        chained: whether it goes into one quantizer, and QLinearConv is proven equal.
    Returns:
        nanoseconds a position, by form, and FLOAT32's.
    """

    def cost(form: str) -> float:
        numbers = features(layer, FLOAT if form == FLOAT32 else form)
        key = (f"{form} > codes" if chained and form != FLOAT32 else form, kind(layer))
        return sum(c * n for c, n in zip(_COSTS[key], numbers, strict=True))

    return {form: cost(form) for form in (*forms, FLOAT32)}
