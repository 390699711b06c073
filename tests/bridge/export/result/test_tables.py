"""The tables of a conversion and of a verification."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from bridge import Conversion, Explanation, LayerExplanation, LayerPlan, Verification
from bridge.export.read.layers import FloatOperator
from bridge.export.result.conversion import LayerSummary, Proof, conversion_table
from bridge.export.result.explanation import explanation_table
from bridge.export.result.verify.differences import Difference
from bridge.export.result.verify.verification import LayerCheck, OutputCheck, verification_table
from bridge.selection.plan import plan_table


def printed(table, width=200):
    """The table's lines, each as its cells."""
    file = io.StringIO()
    Console(width=width, color_system=None, file=file).print(table)
    lines = [line.replace("┃", "│").split("│") for line in file.getvalue().splitlines()]
    return [[cell.strip() for cell in (line[1:-1] or line)] for line in lines]


def layer(name="conv", *, channels=4, bits=8, bound=1 << 20):
    return LayerSummary(
        name=name,
        op="Conv",
        form="ConvInteger",
        bits=bits,
        scale_x=0.0123456,
        zero_point_x=-7,
        channels=channels,
        bound=bound,
        proven=bound < 1 << 24,
        arithmetic="int8",
        reason="fastest",
    )


def conversion(*layers, floats=()):
    return Conversion(
        source=Path("i"),
        fake_quant=Path("f"),
        deploy=Path("d"),
        target="ort",
        layers=layers,
        left_in_float=floats,
    )


def test_a_conversion():
    floats = (FloatOperator("head", "Gemm", "its alpha is 0.5, not 1"),)
    wide = layer("wide", channels=1, bits=16, bound=3 << 24)
    lines = printed(conversion_table(conversion(layer(), wide, floats=floats)))
    assert lines[0] == ["2 quantized layers, target ort"]
    assert lines[2] == ["layer", "operator", "deployed as", "input", "weight scales", "exactness"]
    assert lines[4] == [
        *("conv", "Conv", "ConvInteger", "int8 0.0123 zp -7", "4 channels"),
        "proven (6.2% of 2^24)",
    ]
    assert lines[5] == [
        *("wide", "Conv", "ConvInteger", "int16 0.0123 zp -7", "per tensor"),
        "to be measured (bound 3.0 x 2^24)",
    ]
    assert lines[-2:] == [["left in float:"], ["Gemm head: its alpha is 0.5, not 1"]]


def row(name="conv", **more):
    given = {"op": "Conv", "form": "ConvInteger", "arithmetic": "int8", "reason": "fastest"}
    given |= {"macs": 1200, "macs_per_position": 12, "bound": 9, "int32_bits": 27.83}
    return LayerExplanation(
        name=name, **(given | {"float32_bits": 20.83, "bias_bits": 31.0} | more)
    )


def explanation(*rows, target="ort"):
    return Explanation(target=target, layers=rows, measured_on="a slide rule")


def test_an_explanation():
    proof = Proof(np.array([0, 2, -3, 0]), np.array([True, True, True, False]))
    rows = (
        row(speed=1.5, bias_bits=None),
        row(form="QLinearConv", proof=Proof(np.array([0, 1]), np.array([True, True]))),
        row(unchained="Add 'a' computes in float", proof=proof, float32_bits=-0.5),
        row(int32_bits=None, seconds=(("ConvInteger", 0.00125), ("QLinearConv", 2.0))),
        row("head", form="float", arithmetic="float32", reason="no", macs=400, bound=None),
    )
    lines = printed(explanation_table(explanation(*rows)), width=300)
    assert lines[0] == ["5,200 multiply-accumulates, 92.3% in int8, target ort"]
    columns = ["layer", "operator", "deployed as", "MACs", "bits left", "thresholds", "speed"]
    assert lines[2] == [*columns, "why"]
    conv = ["conv", "Conv", "ConvInteger (int8)", "1,200"]
    assert lines[4] == [*conv, "27.8 / 20.8 / -", "-", "1.50", "fastest"]
    adjusted = "1 equal, 1 adjusted by up to 1 ulp"
    assert lines[5][2:7] == [
        *("QLinearConv (int8)", "1,200", "27.8 / 20.8 / 31.0", adjusted, "not known"),
    ]
    assert lines[6][4:] == [
        *("27.8 / -0.5 / 31.0", "1 equal, 2 adjusted by up to 3 ulps, 1 not matched", "not known"),
        "fastest; no QLinearConv: Add 'a' computes in float; sums are not proven to stay below "
        "2^24",
    ]
    assert lines[7][4] == "- / 20.8 / 31.0"
    assert lines[7][7] == "fastest; ConvInteger 1.25 ms; QLinearConv 2e+03 ms"
    assert lines[8] == ["head", "Conv", "float", "400", "", "-", "not known", "no"]
    assert lines[-1][0].endswith(
        "over float32 of the layer with its input's quantizer, on a slide rule"
    )


def test_what_is_not_known_is_printed():
    product = row("product", bound=None, macs=None, macs_per_position=None)
    lines = printed(explanation_table(explanation(product, row(macs=None, macs_per_position=12))))
    assert lines[0] == ["number of multiply-accumulates not known, target ort"]
    assert lines[4][3:5] == ["not known", "not known"]
    assert lines[5][3] == "12 per position"


def test_a_runtime_chooses_its_arithmetic():
    stored = row(form="QDQ", arithmetic="runtime")
    lines = printed(explanation_table(explanation(stored, target="qdq")))
    can = "100.0% in int8, as far as the runtime has integer operators, target qdq"
    assert lines[0] == [f"1,200 multiply-accumulates, {can}"]
    assert lines[4][2] == "QDQ (runtime)"


SAME, OTHER = Difference(0, 1200, 0.0), Difference(34, 1200, 2.0)


def check(name="conv", *, proven=True, codes=SAME, output=SAME):
    return LayerCheck(
        name=name,
        op="Conv",
        codes_torch_fake=SAME,
        codes_fake_deploy=codes,
        output_torch_fake=None,
        output_fake_deploy=output,
        bound=1 << 21,
        measured=1 << 23,
        proven=proven,
    )


def verification(*layers, output=SAME, first=None):
    outputs = (OutputCheck(name="y", torch_fake=SAME, fake_deploy=output),)
    return Verification(
        layers=layers, outputs=outputs, first_torch_fake=None, first_fake_deploy=first
    )


def test_a_verification():
    found = verification(check(), check("b", proven=False, codes=OTHER), output=OTHER, first="node")
    lines = printed(verification_table(found))
    assert lines[4] == ["conv input", "0 of 1,200", "0 of 1,200", ""]
    assert lines[5] == ["conv output", "-", "0 of 1,200", "proven (12.5% of 2^24)"]
    assert lines[6] == ["b input", "0 of 1,200", "34 of 1,200 (2 steps)", ""]
    assert lines[7] == ["b output", "-", "0 of 1,200", "measured (50.0% of 2^24)"]
    assert lines[8] == ["output y", "0 of 1,200", "34 of 1,200 (2)", ""]
    caption = "first difference: torch / fake-quant none, fake-quant / deploy node"
    assert caption in [" ".join(line) for line in lines]


def test_exactness_is_about_the_outputs():
    assert verification(check(codes=OTHER)).exact
    assert not verification(check(), output=OTHER).exact


@pytest.mark.parametrize("name", ["a[0]", "[bold]conv", "[/conv]", "blocks[1].conv[x]"])
def test_brackets_in_names_are_printed(name):
    floats = (FloatOperator(name, "Gemm", f"{name} is not constant"),)
    (cell,) = {line[0] for line in printed(explanation_table(explanation(row(name))))[4:5]}
    assert cell == name
    cells = printed(conversion_table(conversion(layer(name), floats=floats)))
    assert cells[4][0] == name
    assert cells[-1][0] == f"Gemm {name}: {name} is not constant"
    lines = printed(verification_table(verification(check(name), first=name)))
    assert lines[4][0] == f"{name} input"
    assert lines[5][0] == f"{name} output"
    assert any(line[0].endswith(f"deploy {name}") for line in lines)


def text_of(listing):
    """What is printed, without the breaks of lines."""
    return " ".join(str(listing).split())


NAMES = {
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",
    "a\r\nb\tc\x00\x07\x7f": r"a\r\nb\tc\x00\x07\x7f",
    "\x9b31m\x85\u2028": r"\x9b31m\x85\u2028",
    "\u202eab\u200b\ufeff\xad": r"\u202eab\u200b\ufeff\xad",
    "[red]x[/red] :warning: [link=a]b": "[red]x[/red] :warning: [link=a]b",
    "\ud800": r"\ud800",
    "Schicht.ä.层": "Schicht.ä.层",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_cannot_steer_a_terminal(name):
    floats = (FloatOperator(name, "Gemm", f"{name} is not constant"),)
    seen = replace(
        verification(check(name), first=name),
        outputs=(OutputCheck(name=name, torch_fake=SAME, fake_deploy=SAME),),
        first_nan=name,
        interface=(f"has {name}",),
        missing=(name,),
        uncalled=(name,),
    )
    plan = LayerPlan(path=name, kind=name, action="skipped", reason=name)
    expected = [
        (conversion(layer(name), floats=floats), 3),
        (explanation(row(name, unchained=name)), 2),
        (seen, 7),
        (plan_table([plan]), 3),
    ]
    for listing, count in expected:
        for text in (str(listing), "\n".join("│".join(line) for line in printed(listing, 400))):
            assert " ".join(text.split()).count(NAMES[name]) >= count, text
            assert all(c.isprintable() or c == "\n" for c in text)


LONG = "encoder.layers.11.attention.self.very_long_name_of_a_projection.with_adapters.0.query"
REASON = " ".join(f"reason{i}" for i in range(40))


@pytest.mark.parametrize("name", ["a", LONG, LONG * 3, "层" * 90])
@pytest.mark.parametrize("width", [80, 40, 20, 200])
def test_nothing_is_cut(name, width):
    floats = (FloatOperator(name, "Gemm", REASON),)
    seen = replace(verification(check(name), check("b", codes=OTHER)), interface=(REASON,))
    plan = LayerPlan(path=name, kind="Conv2d", action="unsupported", reason=REASON)
    listings = [
        conversion(layer(name), floats=floats),
        explanation(row(name, unchained=REASON)),
        seen,
        plan_table([plan]),
    ]
    for listing in listings:
        file = io.StringIO()
        Console(width=width, color_system=None, file=file).print(listing)
        lines = file.getvalue().splitlines()
        assert max(map(cell_len, lines)) <= width
        assert "…" not in file.getvalue()
        words = set(file.getvalue().replace("│", " ").split())
        if width > 20:  # words longer than a line are broken
            assert words.issuperset(() if listing is seen else REASON.split())
        characters = "".join(file.getvalue().split())
        assert all(characters.count(c) >= name.count(c) for c in set(name))


def test_what_does_not_go_to_a_terminal_has_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    print(conversion(layer(LONG), floats=(FloatOperator(LONG, "Gemm", REASON),)))
    lines = capsys.readouterr().out.splitlines()
    assert 70 < max(map(len, lines)) <= 80


def test_a_terminal_is_used_in_its_width(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    seen = verification(*(check(f"{LONG}.{i}") for i in range(2)))
    assert 80 < max(map(len, str(seen).splitlines())) <= 120


def test_what_an_output_cannot_encode_is_escaped(monkeypatch):
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", file)
    text = str(verification(check("Schicht.ä")))
    assert text.isascii()
    assert r"Schicht.\xe4 input" in text


def test_nothing_to_list():
    assert str(plan_table([])) == "0 of 0 layers to be quantized"
    assert text_of(conversion()) == "0 quantized layers, target ort"
