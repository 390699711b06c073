"""The forms that layers can take, and the table of targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from bridge.export import ascend, costs
from bridge.export.ascend_pairs import rewrite_remaining_fake_pairs, rewrite_remaining_pairs
from bridge.export.chains import Chain, Unchained, find_chains, write_chain
from bridge.export.concat import quantize_before_concat
from bridge.export.float_form import write_fake, write_float_deploy
from bridge.export.int8_weights import separate_zero_points
from bridge.export.integer_form import write_integer
from bridge.export.layer import QuantizedLayer
from bridge.export.pictures import has_pictures
from bridge.export.pools import keep_pools_in_float
from bridge.export.product import (
    QuantizedProduct,
    write_ascend_fake_product,
    write_ascend_product,
    write_fake_product,
    write_integer_product,
)
from bridge.export.qdq import store_quantized_constants, write_qdq
from bridge.export.reader import Refusal
from bridge.export.scribe import Scribe
from bridge.export.stored_weights import write_float_inputs, write_stored_weights
from bridge.export.sub_pixel import has_phases
from bridge.export.unsigned import count_from_zero

Writer = Callable[[Scribe, QuantizedLayer], None]
ProductWriter = Callable[[Scribe, QuantizedProduct], None]

INT8, FLOAT32, OF_RUNTIME = "int8", costs.FLOAT32, "its runtime's"
"""What multiplies in a form: integer operators, float ones, or what a runtime makes of it."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a layer in a deploy model.

    Args:
        name: what to call it.
        write: writes the nodes.
        arithmetic: what multiplies in it.
    """

    name: str
    write: Writer
    arithmetic: str = INT8


@dataclass(frozen=True, slots=True)
class Choice:
    """The form that a layer takes.

    Args:
        form: the form.
        reason: why this one.
        speed: the float layer's time over the form's, expected; None if not known.
        seconds: times of the forms that were tried on this machine, by name, fastest first.
    """

    form: Form
    reason: str
    speed: float | None = None
    seconds: tuple[tuple[str, float], ...] = ()


Chooser = Callable[[QuantizedLayer, Chain | None], Choice]


@dataclass(frozen=True, slots=True)
class Target:
    """How models are written for a target.

    Args:
        fake: writes a layer of the fake-quant model.
        prepare: first changes to the deploy model, before it is read.
        chains: finds what QLinearConv can compute, and says why not the rest; takes the layers
            and max_ulps.
        choose: picks the form of a layer of the deploy model.
        fake_product: writes a product of two activations of the fake-quant model.
        product: writes one of the deploy model.
        product_form: what a product becomes there.
        product_arithmetic: what multiplies in it.
        store_fake: writes the quantized operands of operators left in float in fake-quant.
        store: writes those in the deploy model.
        folds_batch_norm: whether the deploy model can hold a folded BatchNormalization.
        check: refuses models that the target cannot hold.
        refusal: says why a layer stays in float for the target's sake, None for others.
        finish_fake: last changes to the fake-quant model.
        finish: last changes to the deploy model.
    """

    fake: Writer
    prepare: Callable[[ir.Graph], None]
    chains: Callable[[Sequence[QuantizedLayer], int], Mapping[str, Chain | Unchained]]
    choose: Chooser
    fake_product: ProductWriter
    product: ProductWriter
    product_form: str
    product_arithmetic: str
    store_fake: Callable[[ir.Graph], None]
    store: Callable[[ir.Graph], None]
    folds_batch_norm: bool
    check: Callable[[Sequence[QuantizedLayer]], None]
    refusal: Refusal
    finish_fake: Callable[[ir.Graph], None]
    finish: Callable[[ir.Graph], None]


_ASCEND = Form("AscendQuant/AscendDequant", ascend.write_ascend)
_QDQ = Form("QDQ", write_qdq, OF_RUNTIME)


_ONLY_ASCEND = Choice(_ASCEND, "the one form of target 'ascend'")
_ONLY_QDQ = Choice(_QDQ, "the one form of target 'qdq'")


def ort_form(name: str, chain: Chain | None = None) -> Form:
    """Return a form for ONNX Runtime by its name; every one is exact.

    Args:
        name: one of costs.FORMS, costs.PICTURES, or "MatMulInteger".
        chain: what QLinearConv computes; the other forms need none.
    Returns:
        the form.
    """
    if name in costs.CHAINED:
        if chain is None:
            raise ValueError(f"{name} needs a chain")
        return Form(name, partial(write_chain, chain, in_pictures=name == costs.PICTURES))
    if name == costs.FLOAT:
        return Form(name, write_float_deploy, FLOAT32)
    return Form(name, write_integer)


def ort_candidates(layer: QuantizedLayer, chain: Chain | None) -> tuple[Form, ...]:
    """List the forms that a layer can take for ONNX Runtime, all of them exact.

    Args:
        layer: as read.
        chain: what QLinearConv can compute from it, if anything.
    Returns:
        the forms, of different names.
    """
    names: tuple[str, ...] = costs.FORMS if chain is not None else costs.FORMS[1:]
    if layer.op == "MatMul":
        names = ("MatMulInteger", costs.FLOAT)
    elif chain is not None and has_pictures(layer):
        names = (*names, costs.PICTURES)
    elif layer.op == "ConvTranspose" and not has_phases(layer):
        names = (costs.FLOAT,)
    return tuple(ort_form(name, chain) for name in names)


def choose_ort_form(layer: QuantizedLayer, chain: Chain | None) -> Choice:
    """Pick the fastest form of a layer for ONNX Runtime on a CPU.

    Args:
        layer: as read.
        chain: what QLinearConv can compute from it, if anything.
    Returns:
        the form, and why.
    """
    forms = {form.name: form for form in ort_candidates(layer, chain)}
    halves = "; 16-bit input, as two halves of 8 bits" if layer.wide else ""
    if layer.op == "MatMul":
        return Choice(forms["MatMulInteger"], f"the integer operator of matrix products{halves}")
    if len(forms) == 1:
        return Choice(forms[costs.FLOAT], f"no integer operator for it{halves}")
    times = costs.estimates(layer, list(forms), chained=chain is not None)
    float32 = times.pop(costs.FLOAT32)
    name = min(times, key=lambda form: times[form])
    if name == costs.FLOAT:
        reason = _why_float(layer)
    elif name in costs.CHAINED:
        reason = "proven equal, and fastest"
    else:
        reason = "fastest" if chain is None else "faster than QLinearConv here"
    # The table was measured with inputs of 8 bits, and not in one dimension.
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


def _prepare(graph: ir.Graph) -> None:
    count_from_zero(graph)
    quantize_before_concat(graph)


def _store_integers(graph: ir.Graph) -> None:
    write_stored_weights(graph, keep_integers=True)
    write_float_inputs(graph)


def _finish_ort(graph: ir.Graph) -> None:
    keep_pools_in_float(graph)
    separate_zero_points(graph)


def _store_floats(graph: ir.Graph) -> None:
    write_stored_weights(graph, keep_integers=False)


def _finish_ascend_fake(graph: ir.Graph) -> None:
    rewrite_remaining_fake_pairs(graph)
    write_float_inputs(graph)


def _finish_ascend(graph: ir.Graph) -> None:
    rewrite_remaining_pairs(graph)
    write_float_inputs(graph)


TARGETS: Mapping[str, Target] = {
    "ort": Target(
        fake=write_fake,
        prepare=_prepare,
        chains=lambda layers, max_ulps: find_chains(layers, max_ulps=max_ulps),
        choose=choose_ort_form,
        fake_product=write_fake_product,
        product=write_integer_product,
        product_form="MatMulInteger",
        product_arithmetic=INT8,
        store_fake=_store_integers,
        store=_store_integers,
        folds_batch_norm=True,
        check=lambda layers: None,  # noqa: ARG005
        refusal=lambda layer: None,  # noqa: ARG005
        finish_fake=lambda graph: None,  # noqa: ARG005
        finish=_finish_ort,
    ),
    "qdq": Target(
        fake=write_fake,
        prepare=lambda graph: None,  # noqa: ARG005
        chains=lambda layers, max_ulps: {},  # noqa: ARG005
        choose=lambda layer, chain: _ONLY_QDQ,  # noqa: ARG005
        fake_product=write_fake_product,
        product=lambda scribe, product: None,  # noqa: ARG005
        product_form=_QDQ.name,
        product_arithmetic=_QDQ.arithmetic,
        store_fake=_store_integers,
        store=store_quantized_constants,
        folds_batch_norm=False,
        check=lambda layers: None,  # noqa: ARG005
        refusal=lambda layer: None,  # noqa: ARG005
        finish_fake=lambda graph: None,  # noqa: ARG005
        finish=separate_zero_points,
    ),
    "ascend": Target(
        fake=ascend.write_ascend_fake,
        prepare=lambda graph: None,  # noqa: ARG005
        chains=lambda layers, max_ulps: {},  # noqa: ARG005
        choose=lambda layer, chain: _ONLY_ASCEND,  # noqa: ARG005
        fake_product=write_ascend_fake_product,
        product=write_ascend_product,
        product_form=_ASCEND.name,
        product_arithmetic=_ASCEND.arithmetic,
        store_fake=_store_floats,
        store=_store_floats,
        folds_batch_norm=True,
        check=ascend.check_layers,
        refusal=ascend.refusal,
        finish_fake=_finish_ascend_fake,
        finish=_finish_ascend,
    ),
}
