"""The house: a folder's index names its files in the order in which they may import each other."""

import ast
from pathlib import Path

import pytest

from tests.support.source import ROOT, imports_of, index_of, members_of

PACKAGES = ("qatfunc", "bridge")
MOST_FILES = 12
FOLDERS = sorted(
    init.parent.relative_to(ROOT)
    for package in PACKAGES
    for init in (ROOT / package).rglob("__init__.py")
)


def branches_of(node: ast.stmt) -> list[ast.stmt]:
    """What a statement of a module does: both sides of `if TYPE_CHECKING`, or itself."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return [*node.body, *node.orelse]
    return [node]


def modules() -> list[Path]:
    return [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("__")
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_an_index_names_every_file_of_its_folder_once(folder):
    names = index_of(folder)
    assert len(set(names)) == len(names)
    members = members_of(folder)
    if members == {"main"} or folder.name == "amct":
        return
    assert set(names) == members


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_no_folder_has_more_files_than_a_dozen(folder):
    assert len(list((ROOT / folder).glob("*.py"))) <= MOST_FILES


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_an_init_only_reexports(folder):
    tree = ast.parse((ROOT / folder / "__init__.py").read_text())
    kinds = (ast.Import, ast.ImportFrom, ast.Expr)
    statements = [inner for node in tree.body for inner in branches_of(node)]
    assigned = [node for node in statements if not isinstance(node, kinds)]
    assert all(
        isinstance(node, ast.Assign) and "__" in ast.unparse(node.targets[0]) for node in assigned
    )


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_point_one_way(path):
    """Where the paths of importer and imported part, the imported stands above in the index."""
    own = path.with_suffix("").parts
    for other in imports_of(ROOT / path, PACKAGES):
        if other[0] != own[0]:
            assert (own[0], other[0]) == ("bridge", "qatfunc")
            continue
        depth = sum(own[:i] == other[:i] for i in range(1, 1 + min(len(own), len(other))))
        if depth == len(other):
            continue  # the package itself, with all that its index names
        index = index_of(Path(*own[:depth]))
        if own[depth] in index and other[depth] in index:
            assert index.index(other[depth]) < index.index(own[depth]), ".".join(other)
