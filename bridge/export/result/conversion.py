"""What a conversion did: one line a layer, and the files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.export.fast.requantize import Rounding
from bridge.export.graph.constants import Array
from bridge.export.read.layers import FloatOperator
from bridge.export.result.exactness import describe_exactness
from bridge.report.layout import Listing
from bridge.report.printed import Printed


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
class Conversion(Printed):
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
        """Return the table of conversion_table."""
        return conversion_table(self)


def conversion_table(conversion: Conversion) -> Listing:
    """Lay out the layers of a conversion.

    Args:
        conversion: from convert_qat_model.
    Returns:
        a listing for print or rich.print.
    """
    fast = conversion.mode != "exact"
    columns = ["layer", "operator", "deployed as", "input", "weight scales", "exactness"]
    rows = []
    for layer in conversion.layers:
        row = [
            layer.name,
            layer.op,
            layer.form,
            f"int{layer.bits} {layer.scale_x:.3g} zp {layer.zero_point_x}",
            {0: "-", 1: "per tensor"}.get(layer.channels, f"{layer.channels} channels"),
            describe_exactness(layer.bound, proven=layer.proven),
        ]
        rows.append([*row, _rounding(layer.rounding)] if fast else row)
    left = [f"  {one.op} {one.name}: {one.reason}" for one in conversion.left_in_float]
    title = f"{len(conversion.layers)} quantized layers, target {conversion.target}"
    return Listing(
        title=f"{title}, mode {conversion.mode}" if fast else title,
        columns=[*columns, "output rounded to"] if fast else columns,
        rows=rows,
        caption=["left in float:", *left] if left else [],
    )


def _rounding(rounding: Rounding | None) -> str:
    if rounding is None:
        return "-"
    origin = {0: "range of data", 1: "as its reader"}
    what = origin.get(rounding.quantizers, f"for {rounding.quantizers} readers")
    what += " and data" if rounding.widened else ""
    return f"int8 {rounding.scale:.3g} zp {rounding.zero_point}, {what}"
