"""What the wheel and the source distribution hold."""

import email
import tarfile
import zipfile

from qatfunc.version import __version__
from tests.support.source import ROOT

FOLDERS = ("benchmarks", "bridge", "docs", "examples", "property_tests", "qatfunc", "tests")
KINDS = {".py", ".md", ".json", ".txt", ".npz", ".onnx", ".typed"}


def test_the_wheel_holds_both_packages_their_types_and_the_schema(distributions):
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    assert {"qatfunc/py.typed", "bridge/py.typed", "bridge/config/schema.json"} <= names
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("bridge", "qatfunc")
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= names
    assert {name.partition("/")[0] for name in names} == {
        "bridge",
        "qatfunc",
        f"qatfunc-{__version__}.dist-info",
    }


def test_the_metadata_has_the_version_the_licence_and_the_command(distributions):
    wheel = zipfile.ZipFile(distributions[0])
    about = f"qatfunc-{__version__}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{about}/METADATA"))
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "qatfunc = bridge.cli.main:main" in wheel.read(f"{about}/entry_points.txt").decode()


def test_the_source_distribution_holds_documentation_and_tests(distributions):
    with tarfile.open(distributions[1]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in KINDS
    }
    wanted |= {path.name for path in ROOT.iterdir() if path.suffix in KINDS | {".toml", ".cff"}}
    assert {"CHANGELOG.md", "docs/semantics.md", "tests/package/conftest.py"} <= wanted
    assert wanted - names == set()
    assert {"Makefile", "LICENSE", ".ci/run"} <= names
