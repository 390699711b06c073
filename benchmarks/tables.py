"""Write every table of README and docs between its markers, by running its command.

    python -m benchmarks.tables [--check] [TABLE ...]

A table is between <!-- table NAME --> and <!-- end NAME -->, and is replaced by the standard output
of its command. --check runs no command, but checks that every marker has a command, and every
command a marker. docs/models.md is written by benchmarks.zoo, which needs an environment of its
own.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Command(NamedTuple):
    """A table's command: arguments of Python, and whether it prints Markdown or plain text."""

    arguments: tuple[str, ...]
    markdown: bool = False


TABLES = {
    "demo": Command(("examples/lenet_mnist.py", "outputs")),
    "networks": Command(("-m", "examples.whole_networks")),
    "training": Command(("benchmarks/training.py", "--threads", "1", "--markdown", "3"), True),
    "versions": Command(("benchmarks/onnxruntime_versions.py", "--markdown"), True),
}
"""The command of every table, by the name in its markers."""


def main() -> int:
    """Write the tables that the command line names, or all; return 1 if a marker is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare markers and commands only")
    parser.add_argument("tables", nargs="*", default=list(TABLES), metavar="TABLE")
    given = parser.parse_args()
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    problems = disagreements(pages)
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    if problems or given.check:
        return int(bool(problems))
    for name in given.tables:
        print(f"making {name}", file=sys.stderr, flush=True)
        text = made(TABLES[name])
        for page in pages:
            page.write_text(with_table(page.read_text(), name, text))
    return 0


def disagreements(pages: list[Path]) -> list[str]:
    """Find markers without a command or without an end, and commands without a marker.

    Args:
        pages: Markdown files.
    Returns:
        one sentence for each problem.
    """
    found: list[str] = []
    problems = []
    for page in pages:
        text = page.read_text()
        for name in re.findall(r"<!-- table (\w+) -->", text):
            found.append(name)
            if name not in TABLES:
                problems.append(f"{page.name}: no command makes table {name}")
            if f"<!-- end {name} -->" not in text:
                problems.append(f"{page.name}: table {name} has no end")
    missing = [name for name in TABLES if name not in found]
    return problems + [f"no page has a marker for table {name}" for name in missing]


def made(command: Command) -> str:
    """Run a command and return the text for a table's markers."""
    arguments = [sys.executable, *command.arguments]
    done = subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "\n".join(lines if command.markdown else ["```text", *lines, "```"])


def with_table(page: str, name: str, table: str) -> str:
    """Replace the text between a table's markers.

    Args:
        page: Markdown.
        name: of the table.
        table: the new text.
    Returns:
        the new page; without such markers, the same page.
    """
    start, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", page)


if __name__ == "__main__":
    sys.exit(main())
