"""The names of bridge, of which those of the converter are imported at their first use."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bridge
from bridge.export import public
from tests.support.source import ROOT, index_of

SPELLINGS = re.findall(
    r"\w+",
    """
    Conv1dQAT Conv2dQAT Conv3dQAT ConvTranspose1dQAT ConvTranspose2dQAT Conversion
    ConversionError Explanation LayerExplanation LayerPlan LayerSensitivity LinearQAT MatMulQAT
    NormPlan Tuning Verification __version__ adopt ascend ascend_twin average_whole_gradients
    bake_batch_norm calibrate convert_qat_model explain float_model fold_batch_norm freeze_clips
    freeze_weight_scales frozen_clips frozen_weight_scales functionalize ort parameter_groups
    plan_batch_norm plan_qat prepare_qat qdq quantization register_layer sensitivity
    set_quantization sums_int8_exactly to_module verify whole_parameters
    """,
)
"""Every name that `bridge` has had."""


def test_every_name_can_be_had():
    assert [name for name in bridge.__all__ if getattr(bridge, name, None) is None] == []


def test_a_name_that_does_not_exist_is_an_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'bridge' has no attribute 'convert_model'"):
        _ = bridge.convert_model
    with pytest.raises(ImportError, match="convert_model"):
        from bridge import convert_model  # noqa: F401
    with pytest.raises(AttributeError, match=r"'bridge.export' has no attribute 'convert_model'"):
        _ = bridge.export.convert_model


def imports_for_checkers(package: str) -> dict[str, str]:
    """The module of each name that an `__init__` imports for checkers of types."""
    path = ROOT / package.replace(".", "/") / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (branch,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: imports.module
        for imports in branch.body
        if isinstance(imports, ast.ImportFrom)
        for alias in imports.names
    }


def test_checkers_of_types_see_the_names_where_they_are_imported_from():
    seen = imports_for_checkers("bridge.export")
    assert seen == public._MODULES
    assert imports_for_checkers("bridge") == dict.fromkeys(seen, "bridge.export")
    for name, module in seen.items():
        assert getattr(bridge, name) is getattr(importlib.import_module(module), name)
        assert getattr(bridge.export, name) is getattr(bridge, name)


def test_the_names_on_top_are_few():
    assert len(set(bridge.__all__) - {"__version__"}) == len(bridge.__all__) - 1 == 16


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_works(name):
    assert getattr(bridge, name) is not None
    assert name in dir(bridge)


def public_modules() -> list[str]:
    return [name for name in index_of(Path("bridge")) if name not in ("amct", "cli")]


@pytest.mark.parametrize("name", public_modules())
def test_a_module_lists_its_names(name):
    """By `__all__`; a folder has an index besides, which tests/house reads."""
    module = importlib.import_module(f"bridge.{name}")
    assert len(set(module.__all__)) == len(module.__all__) > 0
    assert [one for one in module.__all__ if getattr(module, one, None) is None] == []
    if hasattr(module, "__path__"):
        assert index_of(Path("bridge", name))


@pytest.mark.parametrize("name", public_modules())
def test_no_name_hides_a_module(name):
    assert getattr(bridge, name) is importlib.import_module(f"bridge.{name}")
    assert name not in bridge.__all__


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name != "__version__"])
def test_every_spelling_is_a_name_of_a_module(name):
    """Whoever reads the index finds it, where it is defined or in the folder of that file."""
    modules = [importlib.import_module(f"bridge.{one}") for one in public_modules()]
    homes = [module for module in modules if name in module.__all__]
    assert [getattr(home, name) for home in homes] == [getattr(bridge, name)]


def test_all_names_can_be_imported_at_once():
    program = "from bridge import *; print(convert_qat_model.__module__, prepare_qat.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(name.startswith("bridge.") for name in done.stdout.split())
