"""The two trees of tests: what they share lies in tests/support, and imports point one way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source import ROOT, imports_of, index_of, members_of

TREES = ("tests", "property_tests")
SUPPORT, STRATEGIES = Path("tests/support"), Path("property_tests/strategies")
MOST_FILES = 14
FILES = sorted(path.relative_to(ROOT) for tree in TREES for path in (ROOT / tree).rglob("*.py"))
USERS = sorted(
    path.relative_to(ROOT)
    for folder in ("qatfunc", "bridge", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
FOLDERS = sorted({path.parent for path in FILES})
SHARED = [folder for folder in FOLDERS if {SUPPORT, STRATEGIES} & {folder, *folder.parents}]


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules and packages of both trees that a file imports, as their parts."""
    for parts in imports_of(ROOT / path, TREES):
        found = ROOT / Path(*parts)
        is_name = not (found.is_dir() or found.with_suffix(".py").exists())
        yield parts[:-1] if is_name else parts


def test_a_file_is_a_test_or_shared():
    ours = ("__init__.py", "conftest.py")
    left = [path for path in FILES if path.name not in ours and path.parent not in SHARED]
    assert [path for path in left if not path.name.startswith("test_")] == []


def test_only_what_is_shared_is_imported():
    wrong = [
        (path, ".".join(parts))
        for path in (*FILES, *USERS)
        for parts in imported(path)
        if Path(*parts[:2]) not in (SUPPORT, STRATEGIES)
    ]
    assert wrong == []


def test_only_property_tests_import_strategies():
    others = [path for path in (*FILES, *USERS) if path.parts[0] != "property_tests"]
    assert [path for path in others if any(p[0] != "tests" for p in imported(path))] == []


def test_packages_import_no_tests():
    packages = [path for path in USERS if path.parts[0] in ("qatfunc", "bridge")]
    assert [path for path in packages if any(imported(path))] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_folder_is_a_package_of_few_files(folder):
    assert folder / "__init__.py" in FILES
    names = [path.name for path in FILES if path.parent == folder]
    assert len(set(names) - {"__init__.py", "conftest.py"}) <= MOST_FILES


@pytest.mark.parametrize("folder", SHARED, ids=str)
def test_an_index_names_every_shared_file_once(folder):
    assert sorted(index_of(folder)) == sorted(members_of(folder))


@pytest.mark.parametrize("folder", SHARED, ids=str)
def test_shared_files_import_what_is_above_them_in_the_index(folder):
    index = index_of(folder)
    for path in (one for one in FILES if folder in one.parents and one.parent in SHARED):
        own = path.with_suffix("").parts[len(folder.parts)]
        if own == "__init__":
            continue
        for parts in imported(path):
            other = parts[len(folder.parts) :][:1]
            if Path(*parts[: len(folder.parts)]) == folder and other and other[0] != own:
                assert index.index(other[0]) < index.index(own), (path, ".".join(parts))
