"""The markers of tables in README and docs."""

from pathlib import Path

from benchmarks.tables import TABLES, disagreements, with_table
from tests.support.source import ROOT


def test_every_marker_has_a_command_and_every_command_a_marker() -> None:
    assert disagreements([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]) == []


def test_markers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table weather -->\nrain\n")
    problems = disagreements([page])
    assert "page.md: no command makes table weather" in problems
    assert "page.md: table weather has no end" in problems
    assert len(problems) == 2 + len(TABLES)


def test_a_table_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- table demo -->\nold\n<!-- end demo -->\nb \\1\n"
    new = with_table(page, "demo", r"new \1")
    assert new == "a\n<!-- table demo -->\nnew \\1\n<!-- end demo -->\nb \\1\n"
    assert with_table(page, "networks", "new") == page
