"""The result of a conversion: the files, a summary of each layer, and their table."""

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
class AdjustedRescale:
    """A rescale factor adjusted in both models, for which QLinearConv has the same bits.

    Args:
        natural: float32 (out,) or (1,), scale_x * scale_w.
        adjusted: float32 of the same shape, the factors used instead.
        ulps: int64 of the same shape, the adjustments in ulps.
    """

    natural: Array
    adjusted: Array
    ulps: Array


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Per channel, whether QLinearConv is proven to give the codes of the float form.

    Args:
        ulps: int64 (channels,) or (1,), the adjustments of rescale factors in ulps.
        proven: bool of that shape, whether all thresholds are equal. If not all channels are
            proven, the layer takes another form and no rescale is adjusted.
    """

    ulps: Array
    proven: Array

    @property
    def natural(self) -> int:
        """Number of channels that are equal without an adjustment."""
        return int((self.proven & (self.ulps == 0)).sum())

    @property
    def adjusted(self) -> int:
        """Number of channels that are equal after an adjustment."""
        return int((self.proven & (self.ulps != 0)).sum())

    @property
    def unmatched(self) -> int:
        """Number of channels that are not equal."""
        return int((~self.proven).sum())

    @property
    def farthest(self) -> int:
        """Largest adjustment in ulps."""
        return int(np.abs(self.ulps).max(initial=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """Summary of one quantized layer, or of an Add or LeakyRelu in mode "fast".

    Args:
        name: module path.
        op: operator in the inter model.
        form: operator or form in the deploy model.
        bits: bits of the input's codes.
        scale_x: scale of the input; of the first input for a product of two activations; the
            largest one of a per-channel scale.
        zero_point_x: zero point of that input, as a signed integer.
        channels: number of weight scales: 1 for per tensor, 0 without a weight.
        bound: largest possible |accumulator|, bias included; None if not known.
        proven: whether bound < 2^24, so that float32 sums are exact for every input.
        adjusted: the rescale used instead of scale_x * scale_w; None if it is not adjusted.
        arithmetic: of the form: "int8", "float32" or "runtime".
        reason: why this form.
        unchained: why the layer cannot become QLinearConv; None if it can, or if its operator has
            no such form.
        proof: result of the comparison with QLinearConv; None if there was none.
        bias_reach: largest |int32 bias|, None without a bias.
        speed: expected speedup, the float layer's time over the form's; None if not known.
        seconds: (form, median seconds) of the forms timed on this machine, fastest first.
        rounding: quantization of the output by mode "fast"; None if it stays float, and in mode
            "exact".
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
    adjusted: AdjustedRescale | None = None
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
    """The result of a conversion.

    Args:
        source: path of the model that was converted.
        fake_quant: path of the fake-quant model.
        deploy: path of the deploy model.
        target: name of the deploy model's target.
        mode: "exact" or "fast"; with "fast" both models differ from the torch model.
        layers: the quantized layers, and Add and LeakyRelu operators of mode "fast", in
            topological order.
        left_in_float: operators of quantizable types that stay in float, and why.
        follow_symlinks: whether external data of the source may be symbolic links to files
            elsewhere.
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
    """Return the table of a conversion's layers.

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
