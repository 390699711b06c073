"""Tables of what a conversion did, why, and of what a verification saw."""

from bridge.export.differences import Difference
from bridge.export.explain import Explanation, LayerExplanation
from bridge.export.requantize import Rounding
from bridge.export.summary import Conversion
from bridge.export.verify import Verification
from bridge.layout import Listing

_EXACT_FLOAT32 = 1 << 24


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
            _exactness(layer.bound, proven=layer.proven),
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


def verification_table(verification: Verification) -> Listing:
    """Lay out the differences a verification counted.

    Args:
        verification: from verify.
    Returns:
        a listing for print or rich.print.
    """
    rows = []
    for layer in verification.layers:
        exactness = _exactness(layer.bound, proven=layer.proven, measured=layer.measured)
        codes = _cell(layer.codes_torch_fake, "steps"), _cell(layer.codes_fake_deploy, "steps")
        rows.append([f"{layer.name} input", *codes, ""])
        outputs = _cell(layer.output_torch_fake, "acc"), _cell(layer.output_fake_deploy, "acc")
        rows.append([f"{layer.name} output", *outputs, exactness])
    for output in verification.outputs:
        cells = _cell(output.torch_fake, ""), _cell(output.fake_deploy, "")
        rows.append([f"output {output.name}", *cells, ""])
    return Listing(
        title="values that differ in any bit (largest difference)",
        columns=["", "torch / fake-quant", "fake-quant / deploy", "exactness"],
        rows=rows,
        caption=_findings(verification),
    )


def _findings(verification: Verification) -> list[str]:
    lines = [
        f"first difference: torch / fake-quant {verification.first_torch_fake or 'none'}, "
        f"fake-quant / deploy {verification.first_fake_deploy or 'none'}"
    ]
    if verification.first_nan is not None:
        lines.append(
            f"the input of layer {verification.first_nan} has a NaN, for which no equality is "
            "promised"
        )
    lines += [f"not interchangeable: {line}" for line in verification.interface]
    if verification.unmatched:
        lines.append(
            "called more or less often than the file has them, so not compared with torch: "
            f"{', '.join(verification.unmatched)}"
        )
    if verification.missing:
        called = [name for name in verification.missing if name not in verification.uncalled]
        for names, why in ((called, "called"), (verification.uncalled, "never called")):
            if names:
                lines.append(f"quantized layers not in the file, {why}: {', '.join(names)}")
    return lines


def _rounding(rounding: Rounding | None) -> str:
    if rounding is None:
        return "-"
    origin = {0: "range of data", 1: "as its reader"}
    what = origin.get(rounding.quantizers, f"for {rounding.quantizers} readers")
    what += " and data" if rounding.widened else ""
    return f"int8 {rounding.scale:.3g} zp {rounding.zero_point}, {what}"


def _exactness(bound: int | None, *, proven: bool, measured: int | None = None) -> str:
    if bound is None:
        bound, proven = 0, False
        if measured is None:
            return "to be measured (depth not in the file)"
    if proven:
        return f"proven ({bound / _EXACT_FLOAT32:.1%} of 2^24)"
    if measured is None:
        return f"to be measured (bound {bound / _EXACT_FLOAT32:.1f} x 2^24)"
    return f"measured ({measured / _EXACT_FLOAT32:.1%} of 2^24)"


def _cell(difference: Difference | None, unit: str) -> str:
    if difference is None:
        return "-"
    if not difference.count:
        return f"0 of {difference.total:,}"
    largest = f"{difference.largest:.3g} {unit}".strip()
    return f"{difference.count:,} of {difference.total:,} ({largest})"
