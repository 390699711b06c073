"""The two distributions, built once from a copy of the tree."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import ROOT

_LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis", "outputs", "build")


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution, as `pip wheel` and `python -m build` make them."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "tree", ignore=_LEFT_OUT)
    program = (
        "from setuptools import build_meta as b; "
        "b.build_wheel('../built'); b.build_sdist('../built')"
    )
    (folder / "built").mkdir()
    subprocess.run(
        [sys.executable, "-c", program], cwd=folder / "tree", capture_output=True, check=True
    )
    (wheel,) = (folder / "built").glob("*.whl")
    (source,) = (folder / "built").glob("*.tar.gz")
    return wheel, source
