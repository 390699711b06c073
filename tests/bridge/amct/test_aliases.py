"""AMCT's import paths, in this process and in fresh ones."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import bridge
import bridge.amct

CLASSES = {
    "conv1d": "Conv1dQAT",
    "conv2d": "Conv2dQAT",
    "conv3d": "Conv3dQAT",
    "conv_transpose_1d": "ConvTranspose1dQAT",
    "conv_transpose_2d": "ConvTranspose2dQAT",
    "linear": "LinearQAT",
    "matmul": "MatMulQAT",
}
PACKAGES = ["amct_pytorch", "amct_pytorch.classic.graph_based.amct_pytorch"]
ROOTS = ("amct_pytorch", "amct_onnx")


def loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in ROOTS]


@pytest.fixture
def installed():
    bridge.amct.install()
    yield
    bridge.amct.uninstall()
    assert not loaded()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("module", CLASSES)
def test_every_class_is_where_the_reference_has_it(installed, package, module):
    found = importlib.import_module(f"{package}.nn.module.quantization.{module}")
    assert getattr(found, CLASSES[module]) is getattr(bridge, CLASSES[module])


def test_the_conversion_is_where_the_reference_has_it(installed):
    import amct_onnx
    from amct_onnx.convert_model import convert_qat_model

    assert convert_qat_model is amct_onnx.convert_qat_model is bridge.convert_qat_model


def test_the_package_under_another_name(installed):
    import amct_pytorch as amct

    assert isinstance(amct, ModuleType)
    assert amct.__doc__ == "bridge's alias of amct_pytorch."


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "import amct_pytorch.prune_interface",
            r"no amct_pytorch.prune_interface: this is bridge's alias of amct_pytorch.* "
            r"amct_pytorch has classic, nn",
        ),
        ("from amct_pytorch import create_quant_config", r"no amct_pytorch.create_quant_config: "),
        (
            "from amct_pytorch.nn.module.quantization.lstm import LSTMQAT",
            r"no amct_pytorch.nn.module.quantization.lstm: .* has conv1d, conv2d, .*, matmul",
        ),
        (
            "from amct_pytorch.nn.module.quantization.conv2d import Conv3dQAT",
            r"no amct_pytorch.nn.module.quantization.conv2d.Conv3dQAT: .* has Conv2dQAT$",
        ),
        (
            "from amct_onnx.convert_model import convert",
            r"no amct_onnx.convert_model.convert: .* has convert_qat_model$",
        ),
        ("import amct_onnx.a.b.c", r"no amct_onnx.a: .* has convert_model, convert_qat_model$"),
    ],
)
def test_what_there_is_not_is_an_import_error_that_says_so(installed, statement, message):
    with pytest.raises(ImportError, match=message):
        exec(statement)


def test_a_missing_attribute_is_an_attribute_error(installed):
    import amct_pytorch as amct

    assert not hasattr(amct, "save_model")
    with pytest.raises(AttributeError, match=r"no amct_pytorch.save_model: this is bridge's alias"):
        amct.save_model()


def test_installing_twice_is_installing_once(installed):
    before = list(sys.meta_path)
    bridge.amct.install()
    assert sys.meta_path == before
    bridge.amct.uninstall()
    with pytest.raises(ModuleNotFoundError, match="No module named 'amct_pytorch'"):
        import amct_pytorch  # noqa: F401
    bridge.amct.uninstall()


def test_ranges_are_searched_as_by_the_reference(installed):
    from amct_pytorch.nn.module.quantization.linear import LinearQAT

    assert LinearQAT(3, 2).config.search.method == "ifmr"
    named = {"retrain_data_config": {"range_search": "mse"}}
    assert LinearQAT(3, 2, config=named).config.search.method == "mse"
    bridge.amct.install(target="qdq")
    assert LinearQAT(3, 2).config.search.method == "ifmr"
    net = bridge.prepare_qat(torch.nn.Sequential(torch.nn.Linear(3, 2)))
    assert net[0].config.search.method == "ifmr"
    bridge.amct.uninstall()
    assert LinearQAT(3, 2).config.search.method == "mse"


def test_the_target_can_be_changed(installed):
    import amct_onnx

    bridge.amct.install(target="ascend")
    assert amct_onnx.convert_qat_model.keywords == {"target": "ascend"}
    bridge.amct.install()
    assert amct_onnx.convert_qat_model is bridge.convert_qat_model


def test_an_unknown_target():
    with pytest.raises(ValueError, match="target must be 'ort' or 'qdq' or 'ascend', got 'gpu'"):
        bridge.amct.install(target="gpu")
    assert not loaded()


def real(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("REAL = True\n")


@pytest.mark.parametrize("name", ROOTS)
def test_a_real_package_is_not_hidden_unless_forced(tmp_path, monkeypatch, name):
    real(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=rf"^{name} is installed; bridge.amct would hide it"):
        bridge.amct.install()
    found = importlib.import_module(name)
    bridge.amct.install(force=True)
    assert not hasattr(importlib.import_module(name), "REAL")
    bridge.amct.uninstall()
    assert sys.modules[name] is found
    del sys.modules[name]


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch, request):
    (tmp_path / "amct_pytorch").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    bridge.amct.install()
    request.addfinalizer(bridge.amct.uninstall)
    assert importlib.import_module("amct_pytorch.nn.module.quantization.linear")


SCRIPT = """
import sys
import beside
from amct_pytorch.nn.module.quantization.linear import LinearQAT
print(__name__, sys.argv[1:], sys.path[0] == beside.folder, given, LinearQAT.__name__)
sys.exit(3)
"""


def test_a_script_runs_as_python_would_run_it(tmp_path):
    (tmp_path / "beside.py").write_text(
        "import os\nfolder = os.path.dirname(os.path.abspath(__file__))\n"
    )
    (tmp_path / "prelude.py").write_text("given = 'from the prelude'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    options = ["--prelude", tmp_path / "prelude.py", tmp_path / "script.py", "--flag", "value"]
    done = subprocess.run(
        [sys.executable, "-m", "bridge.amct", *options],
        cwd=Path(bridge.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "__main__ ['--flag', 'value'] True from the prelude LinearQAT\n"
    assert done.returncode == 3


def test_run_gives_the_scripts_names_and_puts_back_what_it_changed(tmp_path, request):
    request.addfinalizer(bridge.amct.uninstall)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom amct_onnx import convert_qat_model\ny = x + 1\na = sys.argv\n"
    )
    before = sys.argv, list(sys.path), sys.modules["__main__"]
    names = bridge.amct.run(script, ["b"], namespace={"x": 1})
    assert names["y"] == 2
    assert names["a"] == [str(script), "b"]
    assert names["convert_qat_model"] is bridge.convert_qat_model
    assert (sys.argv, list(sys.path), sys.modules["__main__"]) == before


def test_no_script(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no script at .*absent\.py"):
        bridge.amct.run(tmp_path / "absent.py")
    assert not loaded()
