"""Tables of what a conversion did and of what a verification saw."""

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from bridge.export.requantize import Rounding
from bridge.export.summary import Conversion
from bridge.export.verify import Difference, Verification

_EXACT_FLOAT32 = 1 << 24


def conversion_table(conversion: Conversion) -> Table:
    """Lay out the layers of a conversion.

    Args:
        conversion: from convert_qat_model.
    Returns:
        a table for rich.print.
    """
    table = Table(title=f"{len(conversion.layers)} quantized layers, target {conversion.target}")
    for column in ("layer", "operator", "deployed as", "input", "weight scales", "exactness"):
        table.add_column(column)
    if conversion.mode != "exact":
        table.title = f"{table.title}, mode {conversion.mode}"
        table.add_column("output rounded to")
    for layer in conversion.layers:
        table.add_row(
            escape(layer.name),
            layer.op,
            layer.form,
            f"int{layer.bits} {layer.scale_x:.3g} zp {layer.zero_point_x}",
            {0: "-", 1: "per tensor"}.get(layer.channels, f"{layer.channels} channels"),
            _exactness(layer.bound, proven=layer.proven),
            *([] if conversion.mode == "exact" else [_rounding(layer.rounding)]),
        )
    for operator in conversion.left_in_float:
        name, reason = escape(operator.name), escape(operator.reason)
        table.add_row(name, operator.op, "float", reason, "", "")
    return table


def verification_table(verification: Verification) -> Table:
    """Lay out the differences a verification counted.

    Args:
        verification: from verify.
    Returns:
        a table for rich.print.
    """
    table = Table(title="values that differ in any bit (largest difference)")
    for column in ("", "torch / fake-quant", "fake-quant / deploy", "exactness"):
        table.add_column(column)
    for layer in verification.layers:
        exactness = _exactness(layer.bound, proven=layer.proven, measured=layer.measured)
        codes = _cell(layer.codes_torch_fake, "steps"), _cell(layer.codes_fake_deploy, "steps")
        name = escape(layer.name)
        table.add_row(f"{name} input", *codes, "")
        outputs = _cell(layer.output_torch_fake, "acc"), _cell(layer.output_fake_deploy, "acc")
        table.add_row(f"{name} output", *outputs, exactness)
    for output in verification.outputs:
        cells = _cell(output.torch_fake, ""), _cell(output.fake_deploy, "")
        table.add_row(f"output {escape(output.name)}", *cells, "")
    table.caption = escape(
        f"first difference: torch / fake-quant {verification.first_torch_fake or 'none'}, "
        f"fake-quant / deploy {verification.first_fake_deploy or 'none'}"
    )
    return table


def _rounding(rounding: Rounding | None) -> str:
    if rounding is None:
        return "-"
    origin = {0: "range of data", 1: "as its reader"}
    what = origin.get(rounding.quantizers, f"for {rounding.quantizers} readers")
    return f"int8 {rounding.scale:.3g} zp {rounding.zero_point}, {what}"


def _exactness(bound: int | None, *, proven: bool, measured: int | None = None) -> RenderableType:
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
