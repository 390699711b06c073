"""Write the models of this folder again, each with the tool it is named after.

    python -m tests.support.other_tools.make [FOLDER [NAME ...]]

Needs, beside this project: torchao 0.18 (PT2E), brevitas 0.13 and onnxoptimizer, aimet-onnx 2.42,
nncf 3.4, amd-quark 0.13.
The files that are here were made with these, torch 2.13 and onnxruntime 1.32. With names after the
folder it writes these alone.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnxruntime import quantization
from torch import Tensor, nn

SHAPE = (8, 3, 4, 4)
LARGE = (1, 3, 16, 16)
"""The input of the networks of blocks."""


class Network(nn.Module):
    """A convolution, a transposed one, a matrix product on rows of rank 3, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.rows = nn.Linear(64, 12)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.conv(x))))
        return self.head(torch.relu(self.rows(x.flatten(2))).flatten(1))


class Residual(nn.Module):
    """What stays between quantized layers: a sum, a product, a sigmoid, pools, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        x = x * torch.sigmoid(x)
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 2)
        return self.head(x.mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 2 * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1),
        )
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class Mobile(nn.Module):
    """Two of MobileNetV2's blocks between its first convolution and its head."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 8, 3, 2, 1)
        self.net = nn.Sequential(first, nn.ReLU6(), Inverted(8, 8, 1), Inverted(8, 12, 2))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.net(x), 1).flatten(1))


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.down(x))


class Blocks(nn.Module):
    """Two of ResNet's blocks between its stem and its head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(3, 2, 1)
        self.b1, self.b2, self.fc = Block(8, 8, 1), Block(8, 12, 2), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b2(self.b1(self.pool(torch.relu(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class _Batches(quantization.CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        random = np.random.default_rng(0)
        self._left = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


def _float(network: type[nn.Module], path: Path) -> Path:
    names = {"input_names": ["x"], "output_names": ["y"]}
    x = torch.zeros(LARGE if network in (Mobile, Blocks) else SHAPE)
    torch.onnx.export(network().eval(), (x,), path, dynamo=False, opset_version=17, **names)
    return path


def _ort(
    path: Path,
    *,
    per_channel: bool,
    activation: str,
    weight: str,
    network: type[nn.Module] = Network,
    **options: Any,
) -> None:
    """onnxruntime.quantization.quantize_static."""
    kinds = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder:
        source = _float(network, Path(folder, "float.onnx"))
        quantization.quantize_static(
            source,
            path,
            _Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=kinds[activation],
            weight_type=kinds[weight],
            extra_options=options,
        )


def _pt2e(path: Path) -> None:
    """torch's export-based quantization with its XNNPACK quantizer."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    x = torch.randn(SHAPE)
    graph = torch.export.export(Network().eval(), (x,)).module()
    config = get_symmetric_quantization_config(is_per_channel=True)
    prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(config))
    prepared(x)
    torch.onnx.export(convert_pt2e(prepared), (x,), path, dynamo=True, external_data=False)


def _brevitas(path: Path) -> None:
    """Brevitas' QCDQ export: quantize, clip, dequantize."""
    import brevitas.nn as qnn
    from brevitas.export import export_onnx_qcdq
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int32Bias

    numbers: Any = {"weight_quant": Int8WeightPerChannelFloat, "bias_quant": Int32Bias}
    passed = {"return_quant_tensor": True}
    model = nn.Sequential(
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, **passed),
        qnn.QuantConv2d(3, 4, 3, padding=1, **numbers, **passed),
        qnn.QuantReLU(**passed),
        qnn.QuantConvTranspose2d(4, 3, 2, stride=2, **numbers, **passed),
        qnn.QuantReLU(**passed),
        nn.Flatten(),
        qnn.QuantLinear(192, 5, bias=True, **numbers),
    )
    x = torch.randn(SHAPE)
    model(x)
    export_onnx_qcdq(model.eval(), args=x, export_path=path, opset_version=17, dynamo=False)


def _stock_brevitas(path: Path, network: type[nn.Module]) -> None:
    """Brevitas' quantization of a whole model with its defaults."""
    from brevitas.export import export_onnx_qcdq
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import preprocess_for_quantize, quantize

    model = quantize(preprocess_for_quantize(network().eval(), equalize_iters=0))
    with torch.no_grad(), calibration_mode(model):
        for _ in range(4):
            model(torch.randn(LARGE))
    x = torch.randn(LARGE)
    export_onnx_qcdq(model.eval(), args=x, export_path=path, opset_version=17, dynamo=False)


def _nncf(path: Path, network: type[nn.Module], preset: str) -> None:
    """NNCF's post-training quantization of an ONNX model."""
    import nncf

    with tempfile.TemporaryDirectory() as folder:
        source = onnx.load(_float(network, Path(folder, "float.onnx")))
    batches = _Batches(LARGE)
    data = nncf.Dataset([batches.get_next() for _ in range(4)])
    chosen = nncf.QuantizationPreset(preset)
    onnx.save(nncf.quantize(source, data, subset_size=4, preset=chosen), path)


def _quark(path: Path, network: type[nn.Module]) -> None:
    """AMD Quark's XINT8: scales that are powers of two, biases of 8 bits."""
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    with tempfile.TemporaryDirectory() as folder:
        source = _float(network, Path(folder, "float.onnx"))
        config = Config(global_quant_config=get_default_config("XINT8"))
        ModelQuantizer(config).quantize_model(str(source), str(path), _Batches(LARGE))


def _aimet(path: Path, *, network: type[nn.Module] = Network, **options: Any) -> None:
    """AIMET's simulation, calibrated, as a QDQ model."""
    from aimet_onnx.quantsim import QuantizationSimModel

    with tempfile.TemporaryDirectory() as folder:
        source = onnx.load(_float(network, Path(folder, "float.onnx")))
    simulated = QuantizationSimModel(source, providers=["CPUExecutionProvider"])
    batches = _Batches()
    simulated.compute_encodings([batches.get_next() for _ in range(4)])
    onnx.save(simulated.to_onnx_qdq(**options), path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "ort_per_channel": lambda path: _ort(path, per_channel=True, activation="int8", weight="int8"),
    "ort_per_tensor": lambda path: _ort(path, per_channel=False, activation="uint8", weight="int8"),
    "ort_float_biases": lambda path: _ort(
        path, per_channel=True, activation="uint8", weight="int8", QuantizeBias=False
    ),
    "ort_weight_pairs": lambda path: _ort(
        path, per_channel=False, activation="int8", weight="int8", AddQDQPairToWeight=True
    ),
    "ort_unsigned_weights": lambda path: _ort(
        path, per_channel=False, activation="uint8", weight="uint8"
    ),
    "ort_residual": lambda path: _ort(
        path, per_channel=True, activation="uint8", weight="int8", network=Residual
    ),
    "pt2e": _pt2e,
    "brevitas": _brevitas,
    "brevitas_mobile": lambda path: _stock_brevitas(path, Mobile),
    "brevitas_blocks": lambda path: _stock_brevitas(path, Blocks),
    "nncf_mobile": lambda path: _nncf(path, Mobile, "performance"),
    "nncf_mobile_mixed": lambda path: _nncf(path, Mobile, "mixed"),
    "nncf_blocks": lambda path: _nncf(path, Blocks, "performance"),
    "quark_mobile": lambda path: _quark(path, Mobile),
    "quark_blocks": lambda path: _quark(path, Blocks),
    "aimet": lambda path: _aimet(path, export_int32_bias=True, prequantize_constants=True),
    "aimet_residual": lambda path: _aimet(path, network=Residual, force_activation_as="signed"),
}


def main(folder: Path, *names: str) -> None:
    """Write every model, with a fixed input size and nothing of the way it was made."""
    warnings.filterwarnings("ignore")
    for name in names or MAKERS:
        torch.manual_seed(0)
        path = folder / f"{name}.onnx"
        MAKERS[name](path)
        model = onnx.load(path)
        for node in model.graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        onnx.save(model, path)
        print(f"{name:24} {path.stat().st_size:7,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent, *sys.argv[2:])
