"""The two scripts of the manual, character for character, through python -m bridge.amct."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from tests.support.graphs.reading import nodes, read
from tests.support.source import ROOT

SUPPORT = ROOT / "tests" / "support" / "amct"
MANUAL = ROOT.parent / "shared" / "seeds" / "single_operator_qat.zh.txt"

SMALL = "resnet101 = partial(resnet101, blocks=(1, 1, 1, 1), width=8)"
FULL = "# as it is"


def run_script(name: str, folder: Path, *options: str, resnet: str = SMALL) -> dict[str, Any]:
    """Run a script in an empty folder, with a torchvision beside it, and return its report."""
    package = folder / "packages" / "torchvision" / "models"
    package.mkdir(parents=True)
    for parent in (package, package.parent):
        (parent / "__init__.py").touch()
    (package / "resnet.py").write_text(
        "from functools import partial\n"
        f"from tests.support.amct.resnet import resnet101\n{resnet}\n"
    )
    script = folder / f"{name}.py"
    script.write_bytes((SUPPORT / "scripts" / f"{name}.txt").read_bytes())
    prelude = SUPPORT / f"{name}_names.py"
    command = [sys.executable, "-m", "bridge.amct", *options, "--prelude", prelude, script]
    paths = [str(package.parents[1]), str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def check(name: str, folder: Path, report: dict[str, Any], layers: int) -> None:
    assert report["fake_quant"] == f"./outputs/{name}_fake_quant_model.onnx"
    assert {path.name for path in (folder / "outputs").glob("*.onnx")} == {
        f"{name}_fake_quant_model.onnx",
        f"{name}_deploy_model.onnx",
    }
    assert (folder / "inter_model.onnx").exists()
    assert report["finite"]
    assert report["calibrated"]
    assert report["unlike_deploy"] == 0
    # Sigmoid and BatchNorm round differently in torch and in ONNX Runtime; the few integers that
    # this moves by one step are all the difference there may be.
    assert report["largest_difference_from_torch"] <= 0.05 * report["largest"]
    assert len(read(folder / "inter_model.onnx")) == layers


@pytest.mark.parametrize("name", ["lenet", "resnet101"])
def test_the_scripts_are_the_manuals(name):
    if not MANUAL.exists():
        pytest.skip("../shared/seeds/single_operator_qat.zh.txt is absent")
    # The manual's text came with each script on one line.
    scripts = [line for line in MANUAL.read_text().splitlines() if line.startswith("import ")]
    mine = " ".join((SUPPORT / "scripts" / f"{name}.txt").read_text().split())
    assert mine in scripts


def test_training_from_scratch(tmp_path):
    report = run_script("lenet", tmp_path)
    check("lenet", tmp_path, report, 5)
    assert report["convolutions"] == 2


def test_fine_tuning(tmp_path):
    report = run_script("resnet101", tmp_path)
    convolutions = 1 + 4 * 4
    check("resnet101", tmp_path, report, convolutions)
    assert report["convolutions"] == convolutions


def test_fine_tuning_the_whole_network(tmp_path, request):
    if not request.config.getoption("--deep"):
        pytest.skip("ResNet-101 in full takes minutes: --deep")
    report = run_script("resnet101", tmp_path, resnet=FULL)
    assert report["convolutions"] == 104
    check("resnet101", tmp_path, report, 104)


def test_for_ascend(tmp_path):
    run_script("lenet", tmp_path, "--target", "ascend")
    deployed = ir.load(tmp_path / "outputs" / "lenet_deploy_model.onnx").graph
    assert len(nodes(deployed, "AscendQuant")) == len(nodes(deployed, "AscendDequant")) == 5
