"""What a conversion did: one line a layer, and the files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.export.chains import Chain, Unchained
from bridge.export.constants import Array
from bridge.export.elementwise import Elementwise
from bridge.export.forms import Choice
from bridge.export.layer import QuantizedLayer, signed_zero
from bridge.export.product import QuantizedProduct
from bridge.export.reader import FloatOperator
from bridge.export.requantize import Rounding
from bridge.layout import Listing


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


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Whether a layer's float step functions equal QLinearConv's, channel by channel.

    Args:
        ulps: int64 (channels,) or (1,), by how many ulps rescales were moved.
        proven: bool of that shape, whether all thresholds are equal; if one is not, the layer
            takes another form, and no rescale is moved.
    """

    ulps: Array
    proven: Array

    @property
    def natural(self) -> int:
        """How many channels are equal as they are."""
        return int((self.proven & (self.ulps == 0)).sum())

    @property
    def moved(self) -> int:
        """How many are equal after a move."""
        return int((self.proven & (self.ulps != 0)).sum())

    @property
    def unmatched(self) -> int:
        """How many are not."""
        return int((~self.proven).sum())

    @property
    def farthest(self) -> int:
        """Ulps of the farthest move."""
        return int(np.abs(self.ulps).max(initial=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """What became of one quantized layer, or of a sum or LeakyRelu in mode "fast".

    Args:
        name: module path.
        op: operator in the inter model.
        form: what it became in the deploy model.
        bits: width of the input's integers.
        scale_x: scale of the input, the first one of a product of two activations; the largest
            where each channel has its own.
        zero_point_x: zero point of that input, signed.
        channels: weight scales, 1 for one a tensor; 0 where there is no weight.
        bound: largest |accumulator| any input can cause, bias included; None if not known.
        proven: bound < 2^24, so float32 sums are exact for every input.
        moved: what the sums are multiplied by instead of scale_x * scale_w, None if by that.
        arithmetic: what multiplies in the form: "int8", "float32" or "its runtime's".
        reason: why this form.
        unchained: why the layer and what follows are no QLinearConv; None if they are, or if
            there is none for its operator.
        proof: the thresholds that were compared for QLinearConv, None if none were.
        bias_reach: largest |int32 bias|, None without a bias.
        speed: the float layer's time over the form's, expected; None if not known.
        seconds: times of the forms that were tried on this machine, by name, fastest first.
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
    arithmetic: str
    reason: str
    unchained: str | None = None
    proof: Proof | None = None
    bias_reach: int | None = None
    speed: float | None = None
    seconds: tuple[tuple[str, float], ...] = ()
    rounding: Rounding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The outcome of a conversion.

    Args:
        source: path of the model that was converted.
        fake_quant: path of the fake-quant model.
        deploy: path of the deploy model.
        target: what the deploy model is for.
        mode: "exact" or "fast"; with "fast" the torch model computes something else.
        layers: the quantized layers, and the sums and LeakyRelus of mode "fast", in topological
            order.
        left_in_float: operators that could have been layers, and why they are not.
        follow_symlinks: whether the source's weights may be symbolic links to files elsewhere.
    """

    source: Path
    fake_quant: Path
    deploy: Path
    target: str
    mode: str = "exact"
    layers: tuple[LayerSummary, ...]
    left_in_float: tuple[FloatOperator, ...]
    follow_symlinks: bool = False

    def __rich__(self) -> Listing:
        """Return what rich.print shows: bridge.report.conversion_table."""
        from bridge.report import conversion_table  # which reads what is defined here

        return conversion_table(self)

    def __str__(self) -> str:
        """Return bridge.report.conversion_table as text."""
        return str(self.__rich__())


def summarize_product(product: QuantizedProduct, form: str, arithmetic: str) -> LayerSummary:
    """Say what became of a product of two activations.

    Args:
        product: as read.
        form: what it is in the deploy model.
        arithmetic: what multiplies there.
    Returns:
        its line of the summary.
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
    """Say what became of a sum or LeakyRelu of activations.

    Args:
        one: as read.
    Returns:
        its line of the summary.
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
    """Say what became of a layer with weights.

    Args:
        layer: as read.
        choice: what it is in the deploy model.
        chain: the chain that QLinearConv computes, if it does, or why there is none.
    Returns:
        its line of the summary.
    """
    form, snapped = choice.form.name, None if chain is None else chain.snapped
    return LayerSummary(
        name=layer.name,
        op=layer.node.op_type,
        form=form if layer.norm is None else f"{form}, BatchNorm folded",
        bits=8 * layer.zero_point_x.dtype.itemsize,
        scale_x=float(layer.scale_x.max()),
        zero_point_x=signed_zero(layer.zero_point_x),
        channels=layer.scale_w.size,
        bound=layer.accumulator_bound,
        proven=layer.proven,
        # A folded BatchNorm is no part of the torch layer, which could not adopt its factor.
        moved=_moved(layer, chain) if isinstance(chain, Chain) and layer.norm is None else None,
        arithmetic=choice.form.arithmetic,
        reason=choice.reason,
        unchained=chain.reason if isinstance(chain, Unchained) else None,
        proof=None if snapped is None else Proof(snapped.ulps, snapped.proven),
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
        "zero_point_x": signed_zero(first.zero_point),
        "channels": 0,
    }


def _moved(layer: QuantizedLayer, chain: Chain) -> MovedRescale | None:
    ulps = chain.snapped.ulps
    if not ulps.any():
        return None
    return MovedRescale(natural=layer.rescale, moved=chain.rescale, ulps=ulps)
