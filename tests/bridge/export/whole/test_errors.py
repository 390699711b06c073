"""Bad input and what the product says to it: the class callers rely on, and the message.

One table for modules, calibration and export; one for conversions, each of which must leave the
output folder exactly as it was.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from bridge import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConversionError,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
    MatMulQAT,
    calibrate,
    convert_qat_model,
)
from tests.support.exporters import export
from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, SX, W, X, model, save
from tests.support.modules.layers import KINDS, config


class Wrong(NamedTuple):
    do: Callable[[], Any]
    error: type[Exception]
    message: str


GIVEN = {"clip_max": 1.0}
UNKNOWN_KEY = r"^retrain_data_config has no key 'batch_nums'; did you mean 'batch_num'\?"
MISSPELT = r"^retrain_weight_config\['weights_retrain_algo'\] must be 'arq_retrain' or "


def made(name: str, settings: Any) -> Callable[[], Any]:
    kind = KINDS[name]
    return lambda: kind.qat(*kind.sizes, **kind.geometry, config=settings)


def from_float(name: str, settings: Any) -> Callable[[], Any]:
    return lambda: KINDS[name].qat.from_float(KINDS[name].float_layer(), config=settings)


def in_model(layer: nn.Module, x: Any) -> Callable[[], Any]:
    """Run a layer as "body.1" of a model."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleList([nn.Identity(), layer])

        def forward(self, x: Any) -> Any:
            return self.body[1](x)

    return lambda: Model()(x)


def conv_of(qat: type[nn.Module], *sizes: Any, **more: Any) -> Callable[[], Any]:
    return lambda: qat(*sizes, **more)


CONSTRUCTION = {
    f"{name}: {what}{how}": Wrong(make(name, settings), error, message)
    for name in KINDS
    for how, make in (("", made), (", from_float", from_float))
    for what, settings, error, message in [
        ("config no dict", "INT8", TypeError, "^config must be a dict, got str: 'INT8'$"),
        ("unknown key", config({"batch_nums": 1}), ValueError, UNKNOWN_KEY),
        ("misspelt", config(None, {"weights_retrain_algo": "arq"}), ValueError, MISSPELT),
        (
            "crossed clips",
            config({"clip_max": -1.0, "clip_min": 1.0}),
            ValueError,
            "needs clip_max > 0 >= clip_min, got clip_max=-1.0, clip_min=1.0",
        ),
    ]
}

LIMITS = {
    f"{qat.__name__}: padding_mode {mode}": Wrong(
        conv_of(qat, 2, 2, 1, padding_mode=mode),
        error,
        f"^{qat.__name__}: padding_mode must be 'zeros', got '{mode}'$",
    )
    for qat, error in (
        (Conv1dQAT, ValueError),
        (Conv2dQAT, ValueError),
        (Conv3dQAT, RuntimeError),
    )
    for mode in ("reflect", "replicate", "circular")
} | {
    f"{qat.__name__}: padding_mode": Wrong(
        conv_of(qat, 2, 2, 1, padding_mode="circular"),
        ValueError,
        # torch's own constructor is first here.
        'Only "zeros" padding mode is supported for ConvTranspose[12]d',
    )
    for qat in (ConvTranspose1dQAT, ConvTranspose2dQAT)
}
LIMITS |= {
    "Conv2d: padding_mode, from_float": Wrong(
        lambda: Conv2dQAT.from_float(nn.Conv2d(2, 2, 1, padding_mode="reflect")),
        ValueError,
        "^Conv2dQAT: padding_mode must be 'zeros', got 'reflect'$",
    ),
    "Conv3d: depth dilation": Wrong(
        conv_of(Conv3dQAT, 2, 2, 3, dilation=(2, 1, 1)),
        RuntimeError,
        r"^Conv3dQAT: dilation_d must be 1, got dilation=\(2, 1, 1\)$",
    ),
    "Conv3d: dilation": Wrong(
        lambda: Conv3dQAT.from_float(nn.Conv3d(2, 2, 3, dilation=3)),
        RuntimeError,
        r"^Conv3dQAT: dilation_d must be 1, got dilation=\(3, 3, 3\)$",
    ),
    "Linear: channel_wise": Wrong(
        made("linear", config(None, {"channel_wise": True})),
        RuntimeError,
        "^LinearQAT: channel_wise must be False, got True$",
    ),
    "Linear: channel_wise, from_float": Wrong(
        from_float("linear", config(None, {"channel_wise": True})),
        RuntimeError,
        "^LinearQAT: channel_wise must be False, got True$",
    ),
    "MatMul: 16 bits": Wrong(
        lambda: MatMulQAT(config=config({"dst_type": "INT16"})),
        ValueError,
        r"^MatMulQAT: retrain_data_config\['dst_type'\] must be 'INT8', got 'INT16'$",
    ),
}


class Doubled(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


_WHAT_TO_DO = (
    ", a subclass of Conv2d with its own forward: state what it computes by "
    r"bridge.register_layer\(Doubled, ...\)"
)
OTHER_CLASS = {
    f"{qat.__name__}.from_float({type(other).__name__})": Wrong(
        lambda qat=qat, other=other: qat.from_float(other),
        error,
        f"^{qat.__name__}.from_float takes a {qat.operator.float_class.__name__}, "
        f"got {type(other).__name__}"
        f"{_WHAT_TO_DO if (qat, type(other)) == (Conv2dQAT, Doubled) else ''}$",
    )
    for qat, error in (
        (Conv1dQAT, TypeError),
        (Conv2dQAT, TypeError),
        (ConvTranspose1dQAT, TypeError),
        (ConvTranspose2dQAT, TypeError),
        (Conv3dQAT, RuntimeError),
        (LinearQAT, RuntimeError),
    )
    for other in (
        nn.MaxPool2d(2),
        nn.Bilinear(2, 2, 2),
        nn.Identity(),
        Doubled(1, 1, 1),
        Conv2dQAT(1, 1, 1),
        nn.Conv3d(1, 1, 1) if qat is LinearQAT else nn.Linear(2, 2),
    )
}

INPUT = {
    f"{name}: input of shape {shape}": Wrong(
        in_model(KINDS[name].layer(GIVEN), torch.zeros(shape)),
        RuntimeError,
        rf"^body\.1 \({KINDS[name].qat.__name__}\): input must have rank {wanted}, "
        rf"got shape \({', '.join(map(str, shape))},?\)$",
    )
    for name, wanted, shapes in (
        ("conv1d", "3", [(4, 8), (1, 4, 8, 1)]),
        ("conv2d", "4", [(4, 6, 5), (6, 5), (1, 1, 4, 6, 5)]),
        ("conv3d", "5", [(2, 3, 4, 5)]),
        ("conv_transpose1d", "3", [(4, 5)]),
        ("conv_transpose2d", "4", [(4, 3, 4)]),
        ("linear", "2 or more", [(5,), ()]),
    )
    for shape in shapes
} | {
    f"{name}: input of {dtype}": Wrong(
        in_model(KINDS[name].layer(GIVEN), torch.zeros(KINDS[name].x, dtype=dtype)),
        ValueError,
        rf"^body\.1 \({KINDS[name].qat.__name__}\): input must be float32, got {dtype}; call "
        r"x\.float\(\), or use torch\.autocast for mixed precision$",
    )
    for name in KINDS
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64)
}
INPUT |= {
    f"{name}: weight of float64": Wrong(
        in_model(KINDS[name].layer(GIVEN).double(), torch.zeros(KINDS[name].x)),
        ValueError,
        rf"^body\.1 \({KINDS[name].qat.__name__}\): weight must be float32, got torch.float64; "
        r"keep the model in float32 and use torch\.autocast for mixed precision$",
    )
    for name in KINDS
} | {
    f"{name}: calibration with {value}": Wrong(
        in_model(KINDS[name].layer(), torch.full(KINDS[name].x, value)),
        ValueError,
        rf"^body\.1 \({KINDS[name].qat.__name__}\): calibration input has NaN or infinite values$",
    )
    for name in KINDS
    for value in (float("nan"), float("inf"))
}
INPUT |= {
    "a layer on its own goes by its class": Wrong(
        lambda: LinearQAT(5, 4)(torch.zeros(5)),
        RuntimeError,
        r"^LinearQAT: input must have rank 2 or more, got shape \(5,\)$",
    ),
    "calibration with nothing": Wrong(
        in_model(LinearQAT(5, 4), torch.zeros(0, 5)),
        ValueError,
        r"^body\.1 \(LinearQAT\): calibration input has no elements, its shape is \(0, 5\)$",
    ),
    "too few batches": Wrong(
        lambda: calibrate(
            nn.Sequential(
                LinearQAT(3, 3, config=config({"batch_num": 4})),
                LinearQAT(3, 3, config=config({"batch_num": 2})),
                LinearQAT(3, 3, config=config({"batch_num": 3})),
            ),
            list(torch.zeros(2, 1, 3)),
        ),
        ValueError,
        r"^batches ran out before these layers were calibrated: 0 \(2 of 4\), 2 \(2 of 3\)$",
    ),
}


def wider(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One more channel: the second axis, which of a linear layer is the last one."""
    return (shape[0], shape[1] + 1, *shape[2:])


def refusals(name: str) -> dict[str, Wrong]:
    """Inputs that no layer takes, and what it says of them."""
    kind, start = KINDS[name], rf"^body\.1 \({KINDS[name].qat.__name__}\): "
    unit = r"features \(last axis\)" if name == "linear" else "channels"
    shape = wider(kind.x)
    meta = torch.zeros(kind.x, device="meta")
    return {
        f"{name}: one channel too many": Wrong(
            in_model(kind.layer(GIVEN), torch.zeros(shape)),
            RuntimeError,
            rf"{start}expected an input with {kind.x[1]} {unit}, got {kind.x[1] + 1} "
            rf"\(shape \({', '.join(map(str, shape))}\)\)",
        ),
        f"{name}: numpy": Wrong(
            in_model(kind.layer(GIVEN), np.zeros(kind.x, np.float32)),
            TypeError,
            rf"{start}input must be a torch\.Tensor, got numpy\.ndarray; torch\.as_tensor",
        ),
        f"{name}: None": Wrong(
            in_model(kind.layer(GIVEN), None),
            TypeError,
            rf"{start}input must be a torch\.Tensor, got NoneType$",
        ),
        f"{name}: another device": Wrong(
            in_model(kind.layer(GIVEN).eval(), meta),
            RuntimeError,
            rf"{start}.*the input has shape \(.*\) on meta, the weight \(.*\) on cpu$",
        ),
        f"{name}: calibration on another device": Wrong(
            in_model(kind.layer(), meta),
            RuntimeError,
            rf"{start}its input is on meta, the layer on cpu; move one of them$",
        ),
    }


for name in KINDS:
    INPUT |= refusals(name)
INPUT |= {
    "channels last": Wrong(
        in_model(KINDS["conv2d"].layer(GIVEN), torch.zeros(2, 6, 5, 4)),
        RuntimeError,
        r"expected an input with 4 channels, got 6 .*channels come after the batch axis",
    ),
    "smaller than the kernel": Wrong(
        in_model(KINDS["conv2d"].layer(GIVEN), torch.zeros(2, 4, 6, 1)),
        RuntimeError,
        r"^body\.1 \(Conv2dQAT\): .*Kernel size can't be greater.*shape \(2, 4, 6, 1\)",
    ),
}

MODULES = CONSTRUCTION | LIMITS | OTHER_CLASS | INPUT


@pytest.mark.parametrize("case", MODULES)
def test_modules_and_calibration(case):
    wrong = MODULES[case]
    with pytest.raises(wrong.error, match=wrong.message) as caught:
        wrong.do()
    assert type(caught.value) is wrong.error


def test_inside_autocast_other_dtypes_are_fine():
    layer = KINDS["linear"].layer(GIVEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(2, 5, dtype=torch.float64)).dtype == torch.float32


UNCALIBRATED = nn.Sequential(
    LinearQAT(3, 3),
    nn.Sequential(LinearQAT(3, 3, config=config(GIVEN)), LinearQAT(3, 3)),
    LinearQAT(3, 3, config={"retrain_enable": False}),
)
EXPORTS = {
    "uncalibrated": (
        UNCALIBRATED,
        r"cannot export: not calibrated: 0, 1\.1\. Train for batch_num batches or call "
        r"bridge\.calibrate\(model, batches\) first",
    ),
    "parametrized": (
        nn.Sequential(parametrizations.weight_norm(LinearQAT(3, 3, config=config(GIVEN)))),
        r"0 \(\w+\): the weight is parametrized; remove the parametrization",
    ),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_exports(tmp_path, case):
    # The default exporter tells the same; it takes seconds, see test_export.
    net, message = EXPORTS[case]
    with pytest.raises(RuntimeError, match=message):
        export(net.eval(), torch.zeros(2, 3), tmp_path / "m.onnx", "torchscript")
    assert not list(tmp_path.iterdir())


def edited(proto: onnx.ModelProto, name: str, array: Any) -> onnx.ModelProto:
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), name))
    return proto


def whole() -> onnx.ModelProto:
    return model(GEMM, b=BIAS, sw=np.float32(0.01), zw=np.int8(0))


def many_inputs(zero: Any, inputs: int) -> onnx.ModelProto:
    return model(
        MATMUL,
        inputs=f"float[N, {inputs}] x",
        outputs="float[N, 1] y",
        zx=zero,
        w=np.full((inputs, 1), -128, np.int8),
        sw=np.float32(1.0),
        zw=np.int8(0),
    )


class Conversion(NamedTuple):
    source: Callable[[], onnx.ModelProto | bytes | None]
    error: type[Exception]
    message: str
    arguments: Mapping[str, Any] = MappingProxyType({})


ONLY = (
    r"inter\.onnx has no quantized layer \((MatMul|Gemm) 'fc': "  # nothing else could be converted
)
SCALE = ONLY + r"the scale of DequantizeLinear '{}' must be positive and finite, got \[{}\]\)$"
CONVERSIONS = {
    "no file": Conversion(lambda: None, FileNotFoundError, r"^no ONNX model at .*inter\.onnx$"),
    "an empty file": Conversion(
        lambda: b"", ConversionError, r"inter\.onnx is empty: no ONNX model was written to it$"
    ),
    "another kind of file": Conversion(
        lambda: b"this is text", ConversionError, r"inter\.onnx is not a readable ONNX model: "
    ),
    "a truncated file": Conversion(
        lambda: whole().SerializeToString()[:-40],
        ConversionError,
        r"inter\.onnx is not a readable ONNX model: ",
    ),
    "opset 12": Conversion(
        lambda: model("y = Relu (x)", opset=12),
        ConversionError,
        r"inter\.onnx: opset must be 13 or later, got 12$",
    ),
    "an unknown target": Conversion(
        whole,
        ValueError,
        "^target must be 'ort' or 'qdq' or 'ascend', got 'npu'$",
        {"target": "npu"},
    ),
    "a path that ends in a slash": Conversion(
        whole, ValueError, "^save_path must end in a file name prefix, got '", {"save_path": "new/"}
    ),
    "a folder": Conversion(
        whole, ValueError, "^save_path must end in a file name prefix, got '", {"save_path": "."}
    ),
    "no quantized layer": Conversion(
        lambda: model("y = MatMul (x, f)", f=np.ones((3, 2), np.float32)),
        ConversionError,
        r"inter\.onnx has no quantized layer \(MatMul 'y': its input is not dequantized\)$",
    ),
    "a bias that is not finite": Conversion(
        lambda: edited(whole(), "b", np.array([np.nan, 0], np.float32)),
        ConversionError,
        ONLY + r"its bias / \(scale_x \* scale_w\) must fit int32, got up to nan; ",
    ),
    "a bias beyond int32": Conversion(
        lambda: edited(whole(), "b", np.array([2e6, 0], np.float32)),
        ConversionError,
        ONLY + r"its bias / \(scale_x \* scale_w\) must fit int32, got up to 4e\+09; ",
    ),
    "sums beyond int32": Conversion(
        lambda: many_inputs(np.uint8(0), 65_794),
        ConversionError,
        ONLY + r"its sums can reach 2147516160, beyond the accumulator's 2147483647; ",
    ),
    "sums and bias beyond int32": Conversion(
        lambda: model(
            GEMM,
            inputs="float[N, 60000] x",
            outputs="float[N, 1] y",
            zx=np.uint8(0),
            w=np.full((60_000, 1), -128, np.int8),
            sw=np.float32(1.0),
            zw=np.int8(0),
            b=np.array([1e9 * SX], np.float32),
        ),
        ConversionError,
        ONLY + r"its sums can reach 29\d{8}, beyond",
    ),
    "16 bits for ascend": Conversion(
        lambda: model(GEMM, b=BIAS, zx=np.int16(0), sw=np.float32(1), zw=np.int8(0), opset=21),
        ConversionError,
        "^layer 'fc': target 'ascend' takes INT8 activations, got int16$",
        {"target": "ascend"},
    ),
    "a scale a channel of a Gemm for ascend": Conversion(
        lambda: model(GEMM, b=BIAS),
        ConversionError,
        ONLY + r"target 'ascend' takes one weight scale per tensor for Gemm, got 2\)$",
        {"target": "ascend"},
    ),
    "integers as input for ascend": Conversion(
        lambda: model(
            "xd = DequantizeLinear (x, sx, zx)" + W + "[fc] y = MatMul (xd, wd)",
            inputs="int8[N, 3] x",
            sw=np.float32(1),
            zw=np.int8(0),
        ),
        ConversionError,
        "^layer 'fc': target 'ascend' needs a QuantizeLinear just before the layer, got the graph",
        {"target": "ascend"},
    ),
}
for value, printed in ((0.0, r"0\."), (-0.5, r"-0\.5"), (np.inf, "inf"), (np.nan, "nan")):
    CONVERSIONS[f"a scale of the input of {value}"] = Conversion(
        lambda value=value: edited(whole(), "sx", np.float32(value)),
        ConversionError,
        SCALE.format("dequantize_x", printed),
    )
    CONVERSIONS[f"a scale of the weight of {value}"] = Conversion(
        lambda value=value: edited(whole(), "sw", np.float32(value)),
        ConversionError,
        SCALE.format("dequantize_w", printed),
    )
FLOAT_WEIGHT = X + "wq = QuantizeLinear (f, sw, zw)" + W.replace("(w,", "(wq,")
CONVERSIONS["a weight that is not finite"] = Conversion(
    lambda: model(
        FLOAT_WEIGHT + "[fc] y = MatMul (xd, wd)",
        f=np.where(INTEGERS == 64, np.inf, 1.0).astype(np.float32),
        sw=np.float32(1),
        zw=np.int8(0),
    ),
    ConversionError,
    ONLY + r"its weight has NaN or infinite values\)$",
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.mark.parametrize("case", CONVERSIONS)
def test_conversions(tmp_path, monkeypatch, case):
    wrong, folder = CONVERSIONS[case], tmp_path / "out"
    convert_qat_model(save(whole(), tmp_path), folder / "net", folder / "record.txt")
    source = wrong.source()
    if isinstance(source, bytes):
        (tmp_path / "inter.onnx").write_bytes(source)
    elif source is None:
        (tmp_path / "inter.onnx").unlink()
    else:
        save(source, tmp_path)
    before = contents(tmp_path)
    assert len([name for name in before if "/out/" in name]) == 3
    monkeypatch.chdir(folder)

    arguments = {"save_path": "net", "record_file": "record.txt"} | dict(wrong.arguments)
    with pytest.raises(wrong.error, match=wrong.message) as caught:
        convert_qat_model(tmp_path / "inter.onnx", **arguments)
    assert type(caught.value) is wrong.error
    assert contents(tmp_path) == before

    with pytest.raises(wrong.error, match=wrong.message):
        convert_qat_model(
            tmp_path / "inter.onnx", **({"save_path": "new/net"} | dict(wrong.arguments))
        )
    assert contents(tmp_path) == before, "no folder either"
