"""The result of verify and its table."""

from dataclasses import dataclass

from bridge.export.result.exactness import describe_exactness
from bridge.export.result.verify.differences import Difference
from bridge.report.layout import Listing
from bridge.report.printed import Printed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """Differences of one quantized layer on the data; None where a model lacks the value.

    Args:
        name: module path.
        op: operator in the inter model.
        codes_torch_fake: codes of the layer's input, torch against fake-quant; in units of the
            code.
        codes_fake_deploy: the same, fake-quant against deploy.
        output_torch_fake: the layer's output, torch against fake-quant; in units of the
            accumulator.
        output_fake_deploy: the same, fake-quant against deploy.
        bound: largest possible |accumulator|; None if not known.
        measured: largest |accumulator| on the data.
        proven: whether bound < 2^24, so that sums are exact for every input and not only on the
            data.
    """

    name: str
    op: str
    codes_torch_fake: Difference | None
    codes_fake_deploy: Difference | None
    output_torch_fake: Difference | None
    output_fake_deploy: Difference | None
    bound: int | None
    measured: int
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """Differences of one output of the model on the data, absolute.

    Args:
        name: in the inter model.
        torch_fake: torch against fake-quant; None without a torch model.
        fake_deploy: fake-quant against deploy.
    """

    name: str
    torch_fake: Difference | None
    fake_deploy: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification(Printed):
    """The result of verify.

    Args:
        layers: the quantized layers in topological order.
        outputs: the model's outputs.
        first_torch_fake: the first module whose output differs between torch and fake-quant.
        first_fake_deploy: the first value that differs between fake-quant and deploy.
        first_nan: the first quantized layer whose input has NaN. The code of NaN differs between
            engines, so equality is not guaranteed for such data.
        interface: differences of the inputs and outputs of a file from the inter model's, in
            names or order, one line each.
        missing: quantized layers of the torch model whose names are not in the inter model.
        uncalled: those of `missing` that the torch model did not call.
        unmatched: layers that the torch model calls more or less often than the inter model has
            operators of their name, because exporters merge equal calls and drop unused ones; they
            are not compared with torch.
    """

    layers: tuple[LayerCheck, ...]
    outputs: tuple[OutputCheck, ...]
    first_torch_fake: str | None
    first_fake_deploy: str | None
    first_nan: str | None = None
    interface: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    uncalled: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether all outputs have equal bits, names and order, and no layer has NaN in its input.

        The models are torch, fake-quant and deploy; without a torch model the latter two.
        """
        differences = [d for o in self.outputs for d in (o.torch_fake, o.fake_deploy)]
        equal = all(d is None or d.count == 0 for d in differences)
        return equal and self.first_nan is None and not self.interface

    def __rich__(self) -> Listing:
        """Return the table of verification_table."""
        return verification_table(self)


def verification_table(verification: Verification) -> Listing:
    """Return the table of a verification's differences.

    Args:
        verification: from verify.
    Returns:
        a listing for print or rich.print.
    """
    rows = []
    for layer in verification.layers:
        exactness = describe_exactness(layer.bound, proven=layer.proven, measured=layer.measured)
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
            f"the input of layer {verification.first_nan} has NaN, for which equality is not "
            "guaranteed"
        )
    lines += [f"not interchangeable: {line}" for line in verification.interface]
    if verification.unmatched:
        lines.append(
            "not compared with torch, as calls and operators in the file differ in number: "
            f"{', '.join(verification.unmatched)}"
        )
    if verification.missing:
        called = [name for name in verification.missing if name not in verification.uncalled]
        for names, why in ((called, "called"), (verification.uncalled, "never called")):
            if names:
                lines.append(f"quantized layers not in the file, {why}: {', '.join(names)}")
    return lines


def _cell(difference: Difference | None, unit: str) -> str:
    if difference is None:
        return "-"
    if not difference.count:
        return f"0 of {difference.total:,}"
    largest = f"{difference.largest:.3g} {unit}".strip()
    return f"{difference.count:,} of {difference.total:,} ({largest})"
