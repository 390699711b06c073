"""Forms: the nodes that a layer can be lowered to for ONNX Runtime, and the choice among them.

    has a chain:      QLinearConv | ConvInteger | integer-valued float (| QLinearConv in 2-D)
    no chain:         ConvInteger | integer-valued float
    Gemm, MatMul:     MatMulInteger | integer-valued float

All forms of a layer have the same bits, so speed alone decides: plan.costs estimates it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bridge.export.geometry.conv3d import can_be_conv2d
from bridge.export.geometry.conv_transpose import can_be_convolution
from bridge.export.graph.builder import Builder
from bridge.export.lower.float32 import write_float_deploy
from bridge.export.lower.int8 import write_integer
from bridge.export.lower.qlinear_conv import write_chain
from bridge.export.plan import costs
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain

Writer = Callable[[Builder, QuantizedLayer], None]
Estimates = Callable[..., dict[str, float]]

INT8, FLOAT32, OF_RUNTIME = "int8", costs.FLOAT32, "runtime"
"""Arithmetic of a form: integer operators, float operators, or whatever its runtime chooses."""


@dataclass(frozen=True, slots=True)
class Form:
    """One lowering of a layer in the deploy model.

    Args:
        name: of the form, as results show it.
        write: writes the nodes.
        arithmetic: INT8, FLOAT32 or OF_RUNTIME.
    """

    name: str
    write: Writer
    arithmetic: str = INT8


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen form of a layer.

    Args:
        form: the form.
        reason: why this one.
        speed: expected speedup, the float layer's time over the form's; None if not known.
        seconds: (name, median seconds) of the forms timed on this machine, fastest first.
    """

    form: Form
    reason: str
    speed: float | None = None
    seconds: tuple[tuple[str, float], ...] = ()


def ort_form(name: str, chain: Chain | None = None) -> Form:
    """Return the form of a name for ONNX Runtime.

    Args:
        name: one of costs.FORMS, costs.QLINEAR_2D, or "MatMulInteger".
        chain: the layer's; required by the forms of costs.CHAINED.
    Returns:
        the form.
    Raises:
        ValueError: the form needs a chain, and none is given.
    """
    if name in costs.CHAINED:
        if chain is None:
            raise ValueError(f"{name} needs a chain")
        return Form(name, partial(write_chain, chain, in_2d=name == costs.QLINEAR_2D))
    if name == costs.FLOAT:
        return Form(name, write_float_deploy, FLOAT32)
    return Form(name, write_integer)


def ort_candidates(layer: QuantizedLayer, chain: Chain | None) -> tuple[Form, ...]:
    """List the forms that a layer can take for ONNX Runtime; all have the same bits.

    Args:
        layer: the quantized layer.
        chain: the layer's, None if it has none.
    Returns:
        the forms, with distinct names.
    """
    names: tuple[str, ...] = costs.FORMS if chain is not None else costs.FORMS[1:]
    if layer.op == "MatMul":
        names = ("MatMulInteger", costs.FLOAT)
    elif chain is not None and can_be_conv2d(layer):
        names = (*names, costs.QLINEAR_2D)
    elif layer.op == "ConvTranspose" and not can_be_convolution(layer):
        names = (costs.FLOAT,)
    return tuple(ort_form(name, chain) for name in names)


def choose_ort_form(
    layer: QuantizedLayer, chain: Chain | None, *, estimates: Estimates = costs.estimates
) -> Choice:
    """Choose the form of a layer with the lowest estimated cost for ONNX Runtime on a CPU.

    Args:
        layer: the quantized layer.
        chain: the layer's, None if it has none.
        estimates: the cost model: nanoseconds per position, by form and for FLOAT32.
    Returns:
        the form, and why.
    """
    forms = {form.name: form for form in ort_candidates(layer, chain)}
    halves = "; 16-bit input, as two halves of 8 bits" if layer.wide else ""
    if layer.op == "MatMul":
        return Choice(forms["MatMulInteger"], f"the integer operator of matrix products{halves}")
    if len(forms) == 1:
        return Choice(forms[costs.FLOAT], f"no integer operator for it{halves}")
    times = estimates(layer, list(forms), chained=chain is not None)
    float32 = times.pop(costs.FLOAT32)
    name = min(times, key=lambda form: times[form])
    if name == costs.FLOAT:
        reason = _why_float(layer)
    elif name in costs.CHAINED:
        reason = "proven equal, and fastest"
    else:
        reason = "fastest" if chain is None else "faster than QLinearConv here"
    # The cost model was fitted to 8-bit inputs in two and three dimensions.
    speed = float32 / times[name] if layer.weight.ndim > 3 and not layer.wide else None
    return Choice(forms[name], reason + halves, speed)


def _why_float(layer: QuantizedLayer) -> str:
    kind = costs.kind(layer)
    if kind.endswith("depthwise"):
        return "depthwise: float is faster"
    if kind.endswith("grouped"):
        return f"{layer.groups} groups: float is faster"
    inputs, outputs = layer.weight.shape[:2]
    if layer.op == "Conv":
        inputs, outputs = outputs, inputs
    return f"too few channels, {inputs} in and {outputs} out: float is faster"
