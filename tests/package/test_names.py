"""The names of bridge, of which those of the converter are imported at their first use."""

import ast
import importlib
import subprocess
import sys

import pytest

import bridge
from bridge.export import public
from tests.support.source import ROOT


def test_every_name_can_be_had():
    assert [name for name in bridge.__all__ if getattr(bridge, name, None) is None] == []


def test_a_name_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'bridge' has no attribute 'convert_model'"):
        _ = bridge.convert_model
    with pytest.raises(ImportError, match="convert_model"):
        from bridge import convert_model  # noqa: F401


def test_checkers_of_types_see_the_names_where_they_are_imported_from():
    tree = ast.parse((ROOT / "bridge" / "__init__.py").read_text(encoding="utf-8"))
    (branch,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: imports.module
        for imports in branch.body
        if isinstance(imports, ast.ImportFrom)
        for alias in imports.names
    }
    assert seen == public._MODULES
    for name, module in seen.items():
        assert getattr(bridge, name) is getattr(importlib.import_module(module), name)


def test_all_names_can_be_imported_at_once():
    program = "from bridge import *; print(convert_qat_model.__module__, Conv2dQAT.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(name.startswith("bridge.") for name in done.stdout.split())
