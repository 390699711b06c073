"""What the forms of a convolution cost, so that each layer gets the fastest.

    nanoseconds a position of the output = a * multiplications + b * columns + c * outputs

with, for a kernel that sees k numbers of each of g groups: multiplications = k * outputs, columns =
k * g. Measured by benchmarks/forms.py on an x86 processor with AVX2, one thread, the quantizer of
the input included; "> codes" is the cost up to the next layer's quantizer, "float32" that of the
float network's convolution. Depthwise and other grouped convolutions have numbers of their own.
"""

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of a convolution; the first one only for what goes into one quantizer."""

FLOAT32 = "float32"
"""What the float network has; no form of a quantized layer."""

MEASURED_ON = "an x86 processor with AVX2, one thread"
"""Where the table holds."""

GROUPINGS = ("dense", "depthwise", "grouped")
"""What kind tells apart."""

_COSTS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("float32", "dense"): (0.0229, 0.22, 0.455),
    ("float32", "depthwise"): (0.139, 0, 0),
    ("float32", "grouped"): (0.00105, 0.446, 0.988),
    ("ConvInteger", "dense"): (0.0181, 0.297, 0.963),
    ("ConvInteger", "depthwise"): (0.524, 0, 0),
    ("ConvInteger", "grouped"): (0.0148, 0.449, 0.915),
    ("integer-valued float", "dense"): (0.0238, 0.263, 1.25),
    ("integer-valued float", "depthwise"): (0.276, 0, 0),
    ("integer-valued float", "grouped"): (0, 0.487, 2.07),
    ("QLinearConv > codes", "dense"): (0.015, 0.378, 0.979),
    ("QLinearConv > codes", "depthwise"): (0.223, 0, 0),
    ("QLinearConv > codes", "grouped"): (0, 0.917, 1),
    ("ConvInteger > codes", "dense"): (0.018, 0.3, 1.23),
    ("ConvInteger > codes", "depthwise"): (0.563, 0, 0),
    ("ConvInteger > codes", "grouped"): (0.0137, 0.441, 1.32),
    ("integer-valued float > codes", "dense"): (0.0236, 0.266, 1.56),
    ("integer-valued float > codes", "depthwise"): (0.308, 0, 0),
    ("integer-valued float > codes", "grouped"): (0, 0.461, 2.43),
}


def features(outputs: int, elements: int, groups: int) -> tuple[float, float, float]:
    """Return what a form's cost is linear in.

    Args:
        outputs: output channels.
        elements: numbers that one output sees.
        groups: of the convolution.
    Returns:
        multiplications, columns and outputs, for one position of the output.
    """
    return outputs * elements, elements * groups, outputs


def kind(inputs: int, groups: int) -> str:
    """Tell dense, depthwise and other grouped convolutions apart.

    Args:
        inputs: input channels of a group.
        groups: of the convolution.
    Returns:
        one of GROUPINGS.
    """
    if groups == 1:
        return "dense"
    return "depthwise" if inputs == 1 else "grouped"


def estimates(
    outputs: int, inputs: int, kernel: int, groups: int, *, chained: bool
) -> dict[str, float]:
    """Estimate what a convolution costs.

    Args:
        outputs: output channels.
        inputs: input channels of a group.
        kernel: elements of the kernel.
        groups: of the convolution.
        chained: whether it goes into one quantizer, and QLinearConv is proven equal.
    Returns:
        nanoseconds a position of the output, by form; FLOAT32 is the float network's.
    """
    numbers = features(outputs, inputs * kernel, groups)

    def cost(form: str) -> float:
        key = (f"{form} > codes" if chained and form != FLOAT32 else form, kind(inputs, groups))
        return sum(c * n for c, n in zip(_COSTS[key], numbers, strict=True))

    return {form: cost(form) for form in (*(FORMS if chained else FORMS[1:]), FLOAT32)}
