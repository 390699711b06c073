"""What is said about the project agrees with what it is."""

import re
import subprocess
import sys
import tomllib

import bridge
import qatfunc
from bridge.cli import main
from qatfunc.version import __version__
from tests.support.source import ROOT


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_there_is_one_version():
    assert bridge.__version__ == qatfunc.__version__ == __version__
    project = tomllib.loads(text("pyproject.toml"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "qatfunc.version.__version__"
    }
    assert f"\nversion: {__version__}\n" in text("CITATION.cff")
    assert __version__ in text("CHANGELOG.md")


def test_the_readme_has_no_link_that_ends_at_the_repository():
    # A package index shows it without the files beside it.
    targets = re.findall(r"\]\(([^)]*)\)", text("README.md"))
    targets += re.findall(r"(?:src|href)=[\"']([^\"']*)", text("README.md"))
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_files_that_the_readme_names_exist():
    names = re.findall(r"`((?:\w+/)*\w[\w.]*\.(?:md|cff|json|txt|py))`", text("README.md"))
    assert "CHANGELOG.md" in names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_command_says_its_version_and_how_it_is_used():
    command = [sys.executable, "-m", "bridge.cli"]
    version, usage = (
        subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=True)
        for more in (["--version"], ["--help"])
    )
    assert version.stdout == f"qatfunc {__version__}\n"
    assert usage.stdout.startswith("usage: qatfunc")


def test_the_command_without_arguments_shows_its_help(capsys):
    assert main([]) == 0
    assert "import bridge" in capsys.readouterr().out
