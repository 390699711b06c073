"""A script that passes `mypy --strict`: prepare, calibrate, export, convert and verify.

python -m examples.typed_script FOLDER
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import bridge
from qatfunc import ActivationSpec, LayerSpec, WeightSpec, calibration, operators


def convert(folder: Path) -> bridge.export.Verification:
    """Prepare, calibrate, export, convert and verify a small network in a folder."""
    net = bridge.prepare_qat(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    )
    batches = [torch.randn(8, 1, 8, 8) for _ in range(4)]
    bridge.calibrate(net, batches)
    inter = folder / "inter_model.onnx"
    torch.onnx.export(net.eval(), (batches[0],), inter)
    result: bridge.export.Conversion = bridge.convert_qat_model(inter, folder / "net")
    bridge.adopt(net, result)
    return bridge.verify(net, result, batches[0])


def quantized_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Compute a quantized convolution by pure functions, with the range of its input."""
    spec = LayerSpec(weight=WeightSpec(bits=8), activation=ActivationSpec(bits=8))
    state = calibration.update(calibration.init(), x)
    clip = calibration.finish(state, spec.activation)
    return operators.conv2d(x, {"weight": weight, "bias": None, "clip": clip}, spec)


if __name__ == "__main__":
    print(convert(Path(sys.argv[1])))
    print(quantized_convolution(torch.randn(1, 1, 4, 4), torch.randn(2, 1, 3, 3)))
