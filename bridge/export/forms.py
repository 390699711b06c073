"""The forms that layers can take, and the table of targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from bridge.export import ascend, costs
from bridge.export.chains import Chain, find_chains, write_chain
from bridge.export.float_form import write_fake, write_float_deploy
from bridge.export.integer_form import write_integer
from bridge.export.layer import QuantizedLayer
from bridge.export.product import (
    QuantizedProduct,
    write_ascend_fake_product,
    write_ascend_product,
    write_fake_product,
    write_integer_product,
)
from bridge.export.qdq import separate_zero_points, store_quantized_constants, write_qdq
from bridge.export.scribe import Scribe
from bridge.export.stored_weights import write_float_inputs, write_stored_weights
from bridge.export.unsigned import count_from_zero

Writer = Callable[[Scribe, QuantizedLayer], None]
ProductWriter = Callable[[Scribe, QuantizedProduct], None]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a layer in a deploy model."""

    name: str
    write: Writer


Chooser = Callable[[QuantizedLayer, Chain | None], Form]


@dataclass(frozen=True, slots=True)
class Target:
    """How models are written for a target.

    Args:
        fake: writes a layer of the fake-quant model.
        prepare: first changes to the deploy model, before it is read.
        chains: finds what QLinearConv can compute; takes the layers and max_ulps.
        choose: picks the form of a layer of the deploy model.
        fake_product: writes a product of two activations of the fake-quant model.
        product: writes one of the deploy model.
        product_form: what a product becomes there.
        store: writes the quantized operands of operators left in float in the deploy model.
        folds_batch_norm: whether the deploy model can hold a folded BatchNormalization.
        check: refuses layers that the target cannot hold.
        finish: last changes to the deploy model.
    """

    fake: Writer
    prepare: Callable[[ir.Graph], None]
    chains: Callable[[Sequence[QuantizedLayer], int], Mapping[str, Chain]]
    choose: Chooser
    fake_product: ProductWriter
    product: ProductWriter
    product_form: str
    store: Callable[[ir.Graph], None]
    folds_batch_norm: bool
    check: Callable[[Sequence[QuantizedLayer]], None]
    finish: Callable[[ir.Graph], None]


_ASCEND = Form("AscendQuant/AscendDequant", ascend.write_ascend)
_QDQ = Form("QDQ", write_qdq)


def ort_form(name: str, chain: Chain | None = None) -> Form:
    """Return a form for ONNX Runtime by its name; every one is exact.

    Args:
        name: one of costs.FORMS, or "MatMulInteger".
        chain: what QLinearConv computes; the other forms need none.
    Returns:
        the form.
    """
    if name == costs.QLINEAR:
        if chain is None:
            raise ValueError(f"{name} needs a chain")
        return Form(name, partial(write_chain, chain))
    return Form(name, write_float_deploy if name == costs.FLOAT else write_integer)


def ort_candidates(layer: QuantizedLayer, chain: Chain | None) -> tuple[Form, ...]:
    """List the forms that a layer can take for ONNX Runtime; all have the same bits.

    Args:
        layer: as read.
        chain: what QLinearConv can compute from it, if anything.
    Returns:
        the forms, of different names.
    """
    names = costs.FORMS if chain is not None else costs.FORMS[1:]
    if layer.op != "Conv":
        names = (costs.FLOAT,) if layer.op == "ConvTranspose" else ("MatMulInteger", costs.FLOAT)
    return tuple(ort_form(name, chain) for name in names)


def choose_ort_form(layer: QuantizedLayer, chain: Chain | None) -> Form:
    """Pick the fastest form of a layer for ONNX Runtime on a CPU.

    Args:
        layer: as read.
        chain: what QLinearConv can compute from it, if anything.
    Returns:
        the form.
    """
    if layer.op != "Conv":
        return ort_form({"MatMul": "MatMulInteger", "ConvTranspose": costs.FLOAT}[layer.op])
    outputs, inputs, *kernel = layer.weight.shape
    size = int(np.prod(kernel))
    # In three dimensions QLinearConv takes three times as long as the others.
    chained = chain is not None and len(kernel) < 3
    name = costs.cheapest(outputs, inputs, size, layer.groups, chained=chained)
    return ort_form(name, chain)


def _store_integers(graph: ir.Graph) -> None:
    write_stored_weights(graph, keep_integers=True)
    write_float_inputs(graph)


TARGETS: Mapping[str, Target] = {
    "ort": Target(
        fake=write_fake,
        prepare=count_from_zero,
        chains=lambda layers, max_ulps: find_chains(layers, max_ulps=max_ulps),
        choose=choose_ort_form,
        fake_product=write_fake_product,
        product=write_integer_product,
        product_form="MatMulInteger",
        store=_store_integers,
        folds_batch_norm=True,
        check=lambda layers: None,  # noqa: ARG005
        finish=lambda graph: None,  # noqa: ARG005
    ),
    "qdq": Target(
        fake=write_fake,
        prepare=lambda graph: None,  # noqa: ARG005
        chains=lambda layers, max_ulps: {},  # noqa: ARG005
        choose=lambda layer, chain: _QDQ,  # noqa: ARG005
        fake_product=write_fake_product,
        product=lambda scribe, product: None,  # noqa: ARG005
        product_form=_QDQ.name,
        store=store_quantized_constants,
        folds_batch_norm=False,
        check=lambda layers: None,  # noqa: ARG005
        finish=separate_zero_points,
    ),
    "ascend": Target(
        fake=ascend.write_ascend_fake,
        prepare=lambda graph: None,  # noqa: ARG005
        chains=lambda layers, max_ulps: {},  # noqa: ARG005
        choose=lambda layer, chain: _ASCEND,  # noqa: ARG005
        fake_product=write_ascend_fake_product,
        product=write_ascend_product,
        product_form=_ASCEND.name,
        store=partial(write_stored_weights, keep_integers=False),
        folds_batch_norm=True,
        check=ascend.check_layers,
        finish=ascend.rewrite_remaining_pairs,
    ),
}
