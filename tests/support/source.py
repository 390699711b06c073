"""The files of the repository as syntax trees, and the indices of its folders."""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def trees(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path of every file of a package, from the root, and what it holds."""
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Return the packages that a file imports anywhere, `torch` for `torch.nn.functional`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return {name.partition(".")[0] for name in names}


def index_of(folder: Path) -> list[str]:
    """The names in the index of a folder, in its order."""
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or ""
    _, _, lines = text.partition("Index")
    found = re.findall(r"^    (\w+(?:, \w+)*) +\S", lines, re.MULTILINE)
    return [name for names in found for name in names.split(", ")]


def members_of(folder: Path) -> set[str]:
    """The modules and folders in a folder."""
    inside = [path for path in (ROOT / folder).iterdir() if not path.name.startswith("__")]
    return {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()}


def imports_of(path: Path, packages: Collection[str]) -> Iterator[tuple[str, ...]]:
    """The modules of packages that a file imports anywhere, and the names it takes, as parts."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (tuple(name.split(".")) for name in names if name.split(".")[0] in packages)
