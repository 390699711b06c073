"""Summaries of the layers of a conversion."""

from typing import Any

import numpy as np

from bridge.export.fast.elementwise import Elementwise
from bridge.export.plan.forms import Choice
from bridge.export.read.layer import QuantizedLayer, signed_zero_point
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain, Unchained
from bridge.export.result.conversion import AdjustedRescale, LayerSummary, Proof


def summarize_product(product: QuantizedProduct, form: str, arithmetic: str) -> LayerSummary:
    """Summarize a product of two activations.

    Args:
        product: the product.
        form: name of its form in the deploy model.
        arithmetic: what multiplies there.
    Returns:
        the summary.
    """
    return LayerSummary(
        **_without_weights(product),
        form=form,
        bound=product.accumulator_bound,
        proven=product.proven,
        arithmetic=arithmetic,
        reason="the one form of a product of two activations",
    )


def summarize_elementwise(one: Elementwise) -> LayerSummary:
    """Summarize an Add or LeakyRelu of mode "fast".

    Args:
        one: the operator.
    Returns:
        the summary.
    """
    return LayerSummary(
        **_without_weights(one),
        form=one.form,
        bound=0,
        proven=True,
        arithmetic=one.arithmetic,
        reason=one.reason,
    )


def summarize_layer(
    layer: QuantizedLayer, choice: Choice, chain: Chain | Unchained | None
) -> LayerSummary:
    """Summarize a layer with weights.

    Args:
        layer: the quantized layer.
        choice: its form in the deploy model.
        chain: the chain that becomes QLinearConv, or why there is none; None if its operator has
            no such form.
    Returns:
        the summary.
    """
    form, fitted = choice.form.name, None if chain is None else chain.fitted
    return LayerSummary(
        name=layer.name,
        op=layer.node.op_type,
        form=form if layer.norm is None else f"{form}, BatchNorm folded",
        bits=8 * layer.zero_point_x.dtype.itemsize,
        scale_x=float(layer.scale_x.max()),
        zero_point_x=signed_zero_point(layer.zero_point_x),
        channels=layer.scale_w.size,
        bound=layer.accumulator_bound,
        proven=layer.proven,
        adjusted=_adjusted(layer, chain) if isinstance(chain, Chain) else None,
        arithmetic=choice.form.arithmetic,
        reason=choice.reason,
        unchained=chain.reason if isinstance(chain, Unchained) else None,
        proof=None if fitted is None else Proof(fitted.ulps, fitted.proven),
        bias_reach=None if layer.bias is None else int(np.abs(layer.bias.astype(np.int64)).max()),
        speed=choice.speed,
        seconds=choice.seconds,
    )


def _without_weights(one: QuantizedProduct | Elementwise) -> dict[str, Any]:
    first = one.operands[0]
    return {
        "name": one.name,
        "op": one.node.op_type,
        "bits": 8 * max(operand.zero_point.dtype.itemsize for operand in one.operands),
        "scale_x": float(first.scale),
        "zero_point_x": signed_zero_point(first.zero_point),
        "channels": 0,
    }


def _adjusted(layer: QuantizedLayer, chain: Chain) -> AdjustedRescale | None:
    ulps = chain.fitted.ulps
    # The torch layer cannot adopt the factor of a BatchNorm, which is another module.
    if layer.norm is not None or not ulps.any():
        return None
    return AdjustedRescale(natural=layer.rescale, adjusted=chain.rescale, ulps=ulps)
