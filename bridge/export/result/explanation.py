"""A conversion explained, operator by operator, and its table."""

from collections.abc import Iterable
from dataclasses import dataclass

from bridge.export.plan.forms import FLOAT32, OF_RUNTIME
from bridge.export.result.conversion import Proof
from bridge.report.layout import Listing
from bridge.report.printed import Printed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExplanation:
    """One operator of a converted model.

    Args:
        name: module path.
        op: operator in the inter model.
        form: what it is in the deploy model, "float" if it was left.
        arithmetic: what multiplies in it: "int8", "float32" or "its runtime's".
        reason: why this form, or why it was left in float.
        unchained: why the layer and what follows are no QLinearConv; None if they are, or if
            there is none for its operator.
        macs: multiply-accumulates of one run, None if sizes are not known.
        macs_per_position: those for one pixel of the output of a Conv, one of the input of a
            ConvTranspose, one row of a matrix; None if not known.
        bound: largest |accumulator| any input can cause; None if not known, or left in float.
        int32_bits: bits between that bound and 2^31; negative beyond, infinite for 0, None also
            where the sums are 64 bits wide.
        float32_bits: bits between it and 2^24, below which float32 sums are proven exact.
        bias_bits: bits between the largest |int32 bias| and 2^31, None without a bias.
        proof: the thresholds that were compared for QLinearConv, None if none were.
        speed: the float layer's time over the form's, expected; None if not known.
        seconds: times of the forms that were tried on this machine, by name, fastest first.
    """

    name: str
    op: str
    form: str
    arithmetic: str
    reason: str
    unchained: str | None = None
    macs: int | None
    macs_per_position: int | None
    bound: int | None = None
    int32_bits: float | None = None
    float32_bits: float | None = None
    bias_bits: float | None = None
    proof: Proof | None = None
    speed: float | None = None
    seconds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Printed):
    """A conversion, operator by operator.

    Args:
        target: what the deploy model is for.
        layers: every operator that multiplies and accumulates, left in float or not, in
            topological order: Conv, ConvTranspose, Gemm and MatMul, and Einsum, LSTM, attention and
            the like, which no conversion takes. Of operators of unknown domains nobody knows.
        measured_on: the processors that expected speeds are from.
    """

    target: str
    layers: tuple[LayerExplanation, ...]
    measured_on: str

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of all operators, None if those of one are not known."""
        return _sum(layer.macs for layer in self.layers)

    @property
    def int8_share(self) -> float | None:
        """Part of the multiply-accumulates that are of 8 bits; None if not known.

        Where the runtime chooses (target "qdq"), this is the part that it can compute so.
        """
        whole = self.macs
        part = _sum(one.macs for one in self.layers if one.arithmetic != FLOAT32)
        return None if not whole or part is None else part / whole

    @property
    def left_to_runtime(self) -> bool:
        """Whether a layer's arithmetic is what its runtime makes of it."""
        return any(layer.arithmetic == OF_RUNTIME for layer in self.layers)

    def __rich__(self) -> Listing:
        """Return the table of explanation_table."""
        return explanation_table(self)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)


def explanation_table(explanation: Explanation) -> Listing:
    """Lay out an explanation.

    Args:
        explanation: from explain.
    Returns:
        a listing for print or rich.print.
    """
    columns = ["layer", "operator", "deployed as", "MACs", "bits left", "thresholds", "speed"]
    rows = []
    for layer in explanation.layers:
        left = layer.form == "float"
        form = layer.form if left else f"{layer.form} ({layer.arithmetic})"
        cells = (_macs(layer), _bits_left(layer), _thresholds(layer), _speed(layer))
        rows.append([layer.name, layer.op, form, *cells, _why(layer)])
    caption = (
        "bits left: of the sums to 2^31 and to 2^24, where float32 stops being exact, and of the "
        f"bias to 2^31; speed: expected of the layer alone, with the quantizer of its input; "
        f"float32 is 1, on {explanation.measured_on}"
    )
    title = f"{_total(explanation)}, target {explanation.target}"
    return Listing(title=title, columns=[*columns, "why"], rows=rows, caption=[caption])


def _total(explanation: Explanation) -> str:
    macs, share = explanation.macs, explanation.int8_share
    if macs is None:
        return "number of multiply-accumulates not known"
    can = ", as far as the runtime has integer operators" if explanation.left_to_runtime else ""
    return f"{macs:,} multiply-accumulates, {share or 0:.1%} in int8{can}"


def _macs(layer: LayerExplanation) -> str:
    if layer.macs is not None:
        return f"{layer.macs:,}"
    one = layer.macs_per_position
    return "not known" if one is None else f"{one:,} a position"


def _bits_left(layer: LayerExplanation) -> str:
    bits = (layer.int32_bits, layer.float32_bits, layer.bias_bits)
    if layer.bound is None:
        return "" if layer.form == "float" else "not known"
    return " / ".join("-" if one is None else f"{one:.1f}" for one in bits)


def _thresholds(layer: LayerExplanation) -> str:
    proof = layer.proof
    if proof is None:
        return "-"
    parts = [f"{proof.natural} equal"]
    if proof.moved:
        unit = "ulp" if proof.farthest == 1 else "ulps"
        parts.append(f"{proof.moved} moved by up to {proof.farthest} {unit}")
    if proof.unmatched:
        parts.append(f"{proof.unmatched} not matched")
    return ", ".join(parts)


def _speed(layer: LayerExplanation) -> str:
    return "not known" if layer.speed is None else f"{layer.speed:.2f}"


def _why(layer: LayerExplanation) -> str:
    parts = [layer.reason]
    if layer.unchained is not None:
        parts.append(f"no QLinearConv: {layer.unchained}")
    if layer.float32_bits is not None and layer.float32_bits <= 0:
        parts.append("sums are not proven to stay below 2^24")
    parts += [f"{name} {1e3 * seconds:.3g} ms" for name, seconds in layer.seconds]
    return "; ".join(parts)
