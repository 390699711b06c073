"""CONTRIBUTING's rules 1 and 2: what each package imports, as text and in a fresh process."""

import ast
import json
import subprocess
import sys

import pytest

from tests.support.source import ROOT, imported, trees

ONNX = {"onnx", "onnx_ir", "onnxscript", "onnxruntime"}
COMPILER = {"torch._dynamo", "torch._inductor"}
SLOW = {"scipy", "sympy", "pandas", "matplotlib", "sklearn", "jinja2", "torchvision"}


def test_the_scan_finds_imports_wherever_they_stand():
    text = "import a.b\ndef f():\n    from c.d import e\nif x:\n    import g as h\n"
    assert imported(ast.parse(text)) == {"a", "c", "g"}
    assert imported(ast.parse("from . import a")) == {""}


def test_qatfunc_imports_torch_numpy_and_the_standard_library_alone():
    allowed = {"torch", "numpy", "qatfunc"} | sys.stdlib_module_names
    found = {path: imported(tree) - allowed for path, tree in trees("qatfunc")}
    assert len(found) > 20
    assert {path: names for path, names in found.items() if names} == {}


def test_only_the_export_imports_onnx():
    found = {path for path, tree in trees("bridge") if imported(tree) & ONNX}
    assert len(found) > 20
    assert {path for path in found if not path.startswith("bridge/export/")} == set()


def test_bridge_imports_what_it_says_it_depends_on():
    allowed = {"torch", "numpy", "rich", "qatfunc", "bridge"} | ONNX | sys.stdlib_module_names
    found = {path: imported(tree) - allowed for path, tree in trees("bridge")}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [("qatfunc", ONNX | COMPILER | SLOW | {"bridge", "rich"}), ("bridge", ONNX | COMPILER | SLOW)],
)
def test_an_import_loads_nothing_slow(package, unwanted):
    program = f"import json, sys, {package}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert f"{package}.version" in loaded or f"{package}.prepare" in loaded
    assert loaded & unwanted == set()
