"""What the forms of a convolution cost, so that each layer gets the fastest.

    nanoseconds a position of the output = a * multiplications + b * columns + c * outputs

with, for a kernel that sees k numbers of each of g groups: multiplications = k * outputs, columns =
k * g. Measured by benchmarks/forms.py on an x86 processor with AVX2, one thread; "> codes" is the
cost up to the next layer's quantizer. Depthwise and other grouped convolutions have numbers of
their own.
"""

QLINEAR, INTEGER, FLOAT = "QLinearConv", "ConvInteger", "integer-valued float"
FORMS = (QLINEAR, INTEGER, FLOAT)
"""The forms of a convolution; the first one only for what goes into one quantizer."""

GROUPINGS = ("dense", "depthwise", "grouped")
"""What kind tells apart."""

_COSTS: dict[tuple[str, str], tuple[float, float, float]] = {
    ("ConvInteger", "dense"): (0.0349, 0.325, 1.95),
    ("ConvInteger", "depthwise"): (0.884, 0, 0),
    ("ConvInteger", "grouped"): (0.028, 0.959, 1.64),
    ("integer-valued float", "dense"): (0.0404, 0.269, 2.55),
    ("integer-valued float", "depthwise"): (0.532, 0, 0),
    ("integer-valued float", "grouped"): (0, 0.81, 3.7),
    ("QLinearConv > codes", "dense"): (0.029, 0.438, 1.9),
    ("QLinearConv > codes", "depthwise"): (0.413, 0, 0),
    ("QLinearConv > codes", "grouped"): (0, 1.59, 2.04),
    ("ConvInteger > codes", "dense"): (0.035, 0.251, 2.42),
    ("ConvInteger > codes", "depthwise"): (0.998, 0, 0),
    ("ConvInteger > codes", "grouped"): (0.0261, 1.04, 2.04),
    ("integer-valued float > codes", "dense"): (0.0402, 0.205, 3.14),
    ("integer-valued float > codes", "depthwise"): (0.554, 0, 0),
    ("integer-valued float > codes", "grouped"): (0, 0.877, 4.1),
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


def cheapest(outputs: int, inputs: int, kernel: int, groups: int, *, chained: bool) -> str:
    """Choose the form of a convolution.

    Args:
        outputs: output channels.
        inputs: input channels of a group.
        kernel: elements of the kernel.
        groups: of the convolution.
        chained: whether it goes into one quantizer, and QLinearConv is proven equal.
    Returns:
        one of FORMS.
    """
    numbers = features(outputs, inputs * kernel, groups)

    def cost(form: str) -> float:
        key = (f"{form} > codes" if chained else form, kind(inputs, groups))
        return sum(c * n for c, n in zip(_COSTS[key], numbers, strict=True))

    return min(FORMS if chained else FORMS[1:], key=cost)
