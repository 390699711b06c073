"""The page of the zoo, docs/models.md: a table for each package, from stored outcomes."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Outcome = Mapping[str, Any]

_HEAD = """\
# Networks of other packages

Written by `make zoo`; do not edit. Each network was built by its package (with random weights,
unless its name states otherwise, for small inputs), prepared by `bridge.prepare_qat(model)` without
options, calibrated on one batch, trained for two steps, exported by both of torch's exporters,
converted, adopted and verified.

- *layers*: number of quantized layers, of all layers and products in the plan.
- *8 bits*: share of the multiply-accumulates that the deploy model computes in 8 bits.
- *fake-quant / deploy*: output values that differ in any bit between the two files.
- *torch / fake-quant*: quantized layer inputs that differ between torch and fake-quant. They may
  differ after the first operator that torch and ONNX Runtime round differently, such as Sigmoid.
- *s*: seconds in total, in one thread of a shared machine.

With random weights the activations of some deep networks shrink until the output hardly depends on
the input; the inputs of their inner layers are still compared.
"""

_COLUMNS = "network | layers | exporter | 8 bits | fake-quant / deploy | torch / fake-quant | s"


def write_page(path: Path, outcomes: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Write the page.

    Args:
        path: of the page.
        outcomes: by package and network, as benchmarks.zoo.one prints them.
    Returns:
        the page's summary, one line.
    """
    summary = _summary([one for networks in outcomes.values() for one in networks.values()])
    parts = [_HEAD, summary + "\n"]
    for package, networks in outcomes.items():
        if networks:
            parts.append(f"## {package}{_version(package)}\n")
            parts.append("\n".join(_table(networks)) + "\n")
    path.write_text("\n".join(parts))
    return summary


def _summary(outcomes: list[Outcome]) -> str:
    exports = [one for outcome in outcomes for one in outcome.get("exports", {}).values()]
    proven = [one for one in exports if not one["error"]]
    whole = [
        one for one in outcomes if any(not e["error"] for e in one.get("exports", {}).values())
    ]
    differ = sum(one["fake_deploy"] for one in proven)
    compared = sum(one["outputs"] for one in proven)
    return (
        f"{len(whole)} of {len(outcomes)} networks and {len(proven)} of {len(exports)} exports "
        f"were converted; {differ:,} of {compared:,} outputs differ between fake-quant and deploy."
    )


def _version(package: str) -> str:
    try:
        return f" {version(package)}"
    except PackageNotFoundError:
        return ""


def _table(networks: Mapping[str, Outcome]) -> Iterator[str]:
    columns = _COLUMNS.split(" | ")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, outcome in networks.items():
        seconds = f"{outcome['seconds']:.0f}"
        if outcome["error"]:
            yield f"| {name} | - | - | - | {_escaped(outcome['error'])} | - | {seconds} |"
            continue
        layers = "{} of {}".format(*outcome["planned"])
        for exporter, one in outcome["exports"].items():
            yield f"| {name} | {layers} | {exporter} | {' | '.join(_cells(one))} | {seconds} |"
            name = layers = seconds = ""


def _cells(one: Outcome) -> Iterator[str]:
    if one["error"]:
        where = " (fails on the float network too)" if one["float_fails"] else ""
        yield from ("-", _escaped(one["error"]) + where, "-")
        return
    yield "not known" if one["share"] is None else f"{one['share']:.0%}"
    yield f"{one['fake_deploy']:,} of {one['outputs']:,}"
    yield "{:,} of {:,}".format(*one["codes"])


def _escaped(text: str) -> str:
    """Escape a message for a Markdown cell."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= 160 else plain[:157] + "..."
