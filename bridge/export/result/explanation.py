"""The result of explain, operator by operator, and its table."""

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
        form: operator or form in the deploy model; "float" if it stays in float.
        arithmetic: of the form: "int8", "float32" or "runtime".
        reason: why this form, or why it stays in float.
        unchained: why the layer cannot become QLinearConv; None if it can, or if its operator has
            no such form.
        macs: multiply-accumulates of one run of the model; None if sizes are not known.
        macs_per_position: multiply-accumulates for one output position of a Conv, one input
            position of a ConvTranspose, one row of a matrix; None if not known.
        bound: largest possible |accumulator|; None if not known, and in float.
        int32_bits: headroom log2(2^31 / bound): negative above 2^31, infinite for a bound of 0;
            None if bound is None or the accumulator is int64.
        float32_bits: headroom log2(2^24 / bound); if positive, float32 sums are proven exact.
        bias_bits: headroom log2(2^31 / largest |int32 bias|); None without a bias.
        proof: result of the comparison with QLinearConv; None if there was none.
        speed: expected speedup, the float layer's time over the form's; None if not known.
        seconds: (form, median seconds) of the forms timed on this machine, fastest first.
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
        target: name of the deploy model's target.
        layers: all operators that multiply and accumulate, quantized or in float, in topological
            order: Conv, ConvTranspose, Gemm and MatMul, and Einsum, LSTM, attention and the like,
            which are never quantized. Operators of unknown domains are included with unknown MACs.
        measured_on: the processor of the cost model's times.
    """

    target: str
    layers: tuple[LayerExplanation, ...]
    measured_on: str

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of all operators; None if those of one operator are not known."""
        return _sum(layer.macs for layer in self.layers)

    @property
    def int8_share(self) -> float | None:
        """Share of the multiply-accumulates that are in int8; None if not known.

        For target "qdq", whose runtime chooses the arithmetic, it is the share that can be.
        """
        whole = self.macs
        part = _sum(one.macs for one in self.layers if one.arithmetic != FLOAT32)
        return None if not whole or part is None else part / whole

    @property
    def left_to_runtime(self) -> bool:
        """Whether the runtime chooses the arithmetic of some layer (target "qdq")."""
        return any(layer.arithmetic == OF_RUNTIME for layer in self.layers)

    def __rich__(self) -> Listing:
        """Return the table of explanation_table."""
        return explanation_table(self)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)


def explanation_table(explanation: Explanation) -> Listing:
    """Return the table of an explanation.

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
        "bits left: from the largest sum to 2^31 and to 2^24, up to which float32 is exact, and "
        "from the largest bias to 2^31; speed: expected speedup over float32 of the layer with its "
        f"input's quantizer, on {explanation.measured_on}"
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
    return "not known" if one is None else f"{one:,} per position"


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
    if proof.adjusted:
        unit = "ulp" if proof.farthest == 1 else "ulps"
        parts.append(f"{proof.adjusted} adjusted by up to {proof.farthest} {unit}")
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
