"""What a conversion did: one line a layer, and the files."""

from dataclasses import dataclass
from pathlib import Path

from bridge.export.chains import Chain
from bridge.export.constants import Array
from bridge.export.elementwise import Elementwise
from bridge.export.layer import QuantizedLayer, signed_zero
from bridge.export.product import QuantizedProduct
from bridge.export.reader import FloatOperator
from bridge.export.requantize import Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MovedRescale:
    """A rescale that was moved in both models, so that an integer operator computes the same.

    Args:
        natural: float32 (out,) or (1,), scale_x * scale_w.
        moved: the same, some a few ulps off.
        ulps: int64, by how many.
    """

    natural: Array
    moved: Array
    ulps: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """What became of one quantized layer, or of a sum or LeakyRelu in mode "fast".

    Args:
        name: module path.
        op: operator in the inter model.
        form: what it became in the deploy model.
        bits: width of the input's integers.
        scale_x: scale of the input, the first one of a product of two activations.
        zero_point_x: zero point of that input, signed.
        channels: weight scales, 1 for one a tensor; 0 where there is no weight.
        bound: largest |accumulator| any input can cause, bias included; None if not known.
        proven: bound < 2^24, so float32 sums are exact for every input.
        moved: what the sums are multiplied by instead of scale_x * scale_w, None if by that.
        rounding: what mode "fast" rounds the output to, None if it stays float or in mode "exact".
    """

    name: str
    op: str
    form: str
    bits: int
    scale_x: float
    zero_point_x: int
    channels: int
    bound: int | None
    proven: bool
    moved: MovedRescale | None = None
    rounding: Rounding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The outcome of a conversion.

    Args:
        fake_quant: path of the fake-quant model.
        deploy: path of the deploy model.
        target: what the deploy model is for.
        mode: "exact" or "fast"; with "fast" the torch model computes something else.
        layers: the quantized layers, and the sums and LeakyRelus of mode "fast", in topological
            order.
        left_in_float: operators that could have been layers, and why they are not.
    """

    fake_quant: Path
    deploy: Path
    target: str
    mode: str = "exact"
    layers: tuple[LayerSummary, ...]
    left_in_float: tuple[FloatOperator, ...]


def summarize_product(product: QuantizedProduct, form: str) -> LayerSummary:
    """Say what became of a product of two activations.

    Args:
        product: as read.
        form: what it is in the deploy model.
    Returns:
        its line of the summary.
    """
    first = product.operands[0]
    return LayerSummary(
        name=product.name,
        op=product.node.op_type,
        form=form,
        bits=8,
        scale_x=float(first.scale),
        zero_point_x=signed_zero(first.zero_point),
        channels=0,
        bound=product.accumulator_bound,
        proven=product.proven,
    )


def summarize_elementwise(one: Elementwise) -> LayerSummary:
    """Say what became of a sum or LeakyRelu of activations.

    Args:
        one: as read.
    Returns:
        its line of the summary.
    """
    first = one.operands[0]
    return LayerSummary(
        name=one.name,
        op=one.node.op_type,
        form=one.form,
        bits=8,
        scale_x=float(first.scale),
        zero_point_x=signed_zero(first.zero_point),
        channels=0,
        bound=0,
        proven=True,
    )


def summarize_layer(layer: QuantizedLayer, form: str, chain: Chain | None) -> LayerSummary:
    """Say what became of a layer with weights.

    Args:
        layer: as read.
        form: what it is in the deploy model.
        chain: the chain that QLinearConv computes, if it does.
    Returns:
        its line of the summary.
    """
    return LayerSummary(
        name=layer.name,
        op=layer.node.op_type,
        form=form if layer.norm is None else f"{form}, BatchNorm folded",
        bits=8 * layer.zero_point_x.dtype.itemsize,
        scale_x=float(layer.scale_x),
        zero_point_x=signed_zero(layer.zero_point_x),
        channels=layer.scale_w.size,
        bound=layer.accumulator_bound,
        proven=layer.proven,
        # A folded BatchNorm is no part of the torch layer, which could not adopt its factor.
        moved=None if chain is None or layer.norm is not None else _moved(layer, chain),
    )


def _moved(layer: QuantizedLayer, chain: Chain) -> MovedRescale | None:
    ulps = chain.snapped.ulps
    if not ulps.any():
        return None
    return MovedRescale(natural=layer.rescale, moved=chain.rescale, ulps=ulps)
