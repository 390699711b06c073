"""A user's script with the wheel installed: what it prints, and what `mypy --strict` sees."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.source import ROOT

REVEALED = """
reveal_type(bridge.__version__)
reveal_type(bridge.prepare_qat(nn.Linear(1, 1)))
reveal_type(bridge.calibrate(nn.Linear(1, 1), []))
reveal_type(bridge.convert_qat_model("inter.onnx", "net").deploy)
reveal_type(bridge.verify(None, "i", "f", "d", None).exact)
reveal_type(bridge.Conv2dQAT(1, 1, 1))
reveal_type(bridge.modules.LinearQAT(1, 1))
reveal_type(bridge.switches.freeze_clips(nn.Linear(1, 1)))
reveal_type(bridge.export.sums_int8_exactly())
reveal_type(operators.matmul)
"""
TYPES = (
    "str",
    "torch.nn.modules.module.Module",
    "None",
    "pathlib.Path",
    "bool",
    "Conv2dQAT",
    "LinearQAT",
    "Switched",
    "bool",
)

CALLS = """
from pathlib import Path

import bridge

result = bridge.convert_qat_model("inter.onnx", "net")
bridge.convert_qat_model("inter.onnx", Path("net"), "record.txt", vnni=True, tune=bridge.Tuning())
bridge.convert_qat_model("inter.onnx", "net", target="ort", mode="fast", data=[])
bridge.convert_qat_model("inter.onnx", "net", target="qdq", symmetric=True, opset=13)
bridge.convert_qat_model("inter.onnx", "net", target="ascend")
bridge.convert_qat_model("inter.onnx", "net", target=bridge.ort(mode="fast", data=[]))
bridge.convert_qat_model("inter.onnx", "net", target=bridge.qdq(symmetric=True, opset=13))
bridge.convert_qat_model("inter.onnx", "net", target=bridge.ascend(), fold_batch_norm=True)
bridge.verify(None, result, [])
bridge.verify(None, result=result, data=[])
bridge.verify(None, "inter.onnx", fake="f.onnx", deploy=Path("d.onnx"), data=[])

bridge.convert_qat_model("inter.onnx", "net", opset=13)  # wrong
bridge.convert_qat_model("inter.onnx", "net", vnni="yes")  # wrong
bridge.convert_qat_model("inter.onnx", "net", target="qdq", vnni=True)  # wrong
bridge.convert_qat_model("inter.onnx", "net", target="ascend", tune=True)  # wrong
bridge.convert_qat_model("inter.onnx", "net", target=bridge.qdq(), opset=13)  # wrong
bridge.convert_qat_model("inter.onnx", "net", target=bridge.qdq)  # wrong
bridge.ort(opset=13)  # wrong
bridge.qdq(vnni=True)  # wrong
bridge.qdq(opset="13")  # wrong
bridge.ascend(tune=True)  # wrong
bridge.verify(None, result)  # wrong
bridge.verify(None, "inter.onnx", "f.onnx", "d.onnx")  # wrong
bridge.verify(None, result, result.deploy, [])  # wrong
"""


@pytest.fixture
def python(distributions: tuple[Path, Path], tmp_path: Path) -> Path:
    """An environment with the wheel, and with this one's packages after it."""
    installed = tmp_path / "installed"
    zipfile.ZipFile(distributions[0]).extractall(installed)
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "these.pth").write_text("\n".join([str(installed), *others]))
    return environment / "bin" / "python"


def test_a_users_script_runs(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text((ROOT / "examples" / "typed_script.py").read_text())
    done = subprocess.run(
        [python, script, tmp_path], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert "first difference: torch / fake-quant none, fake-quant / deploy none" in done.stdout
    assert (tmp_path / "net_deploy_model.onnx").exists()


def checked(python: Path, script: Path) -> subprocess.CompletedProcess[str]:
    """What `mypy --strict` says of a script."""
    # In the cache that the whole project has, so that torch is read once.
    options = ["--strict", "--python-executable", python, "--cache-dir", ROOT / ".mypy_cache/user"]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, script],
        cwd=script.parent,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_script_is_typed(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text((ROOT / "examples" / "typed_script.py").read_text() + REVEALED)
    done = checked(python, script)
    assert "Success: no issues found" in done.stdout, done.stdout + done.stderr
    *found, product = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    for line, kind in zip(found, TYPES, strict=True):
        assert line.endswith(f'{kind}"')
    assert "params: " in product
    assert product.endswith('-> torch._tensor.Tensor"')


def test_options_of_another_target_are_errors_of_types(python, tmp_path):
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    said = checked(python, script).stdout
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error: " in line}
    wrong = {i for i, line in enumerate(CALLS.split("\n"), 1) if line.endswith("# wrong")}
    assert len(wrong) == 13
    assert found == wrong, said
