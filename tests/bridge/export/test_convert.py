"""convert_qat_model: names and folders of the files, and the result."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from bridge import Conversion, ConversionError, convert_qat_model
from bridge.export.normalize.model import read_model
from bridge.export.pipeline import convert_model
from bridge.export.read.layers import FloatOperator
from bridge.export.result.conversion import LayerSummary
from bridge.export.targets.table import TARGETS
from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, SW, SX, W, X, model, save


def test_names_and_places_of_the_references_call(tmp_path, monkeypatch):
    save(model(GEMM, b=BIAS), tmp_path, "inter_model.onnx")
    monkeypatch.chdir(tmp_path)
    done = convert_qat_model("inter_model.onnx", "./outputs/lenet")
    assert done.fake_quant == Path("outputs/lenet_fake_quant_model.onnx")
    assert done.deploy == Path("outputs/lenet_deploy_model.onnx")
    written = sorted(str(path) for path in Path("outputs").iterdir())
    assert written == ["outputs/lenet_deploy_model.onnx", "outputs/lenet_fake_quant_model.onnx"]


@pytest.mark.parametrize("prefix", ["net", "net.v1", "net.onnx", ".net", "a b"])
def test_a_prefix_is_taken_as_it_is(tmp_path, prefix):
    source = save(model(MATMUL), tmp_path)
    done = convert_qat_model(str(source), str(tmp_path / "out" / prefix))
    assert done.fake_quant.name == f"{prefix}_fake_quant_model.onnx"
    assert done.deploy.name == f"{prefix}_deploy_model.onnx"
    assert done.fake_quant.is_file()
    assert done.deploy.is_file()


@pytest.mark.parametrize("path", ["", ".", "..", "out/", "folder", "folder/", "out\\"])
def test_a_prefix_without_a_name_is_refused(tmp_path, monkeypatch, path):
    save(model(MATMUL), tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="save_path must end in a file name prefix, got "):
        convert_qat_model("inter.onnx", path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "inter.onnx"]


@pytest.mark.parametrize("target", ["ORT", "", "onnxruntime", None])
def test_an_unknown_target_is_refused_first(tmp_path, target):
    with pytest.raises(
        ValueError, match=rf"^target must be 'ort' or 'qdq' or 'ascend', got {target!r}$"
    ):
        convert_qat_model(tmp_path / "absent.onnx", tmp_path / "net", target=target)


def test_what_it_returns(tmp_path):
    body = GEMM + " [float] z = MatMul (y, f)"
    source = save(
        model(body, outputs="float[N, 2] z", b=BIAS, f=np.eye(2, dtype=np.float32)), tmp_path
    )
    done = convert_qat_model(source, tmp_path / "net")
    reach = 134 * np.abs(INTEGERS.astype(int)).sum(0) + np.rint(np.abs(BIAS) / (SX * SW)).astype(
        int
    )
    summary = LayerSummary(
        name="fc",
        op="Gemm",
        form="MatMulInteger",
        bits=8,
        scale_x=float(SX),
        zero_point_x=-7,
        channels=2,
        bound=int(reach.max()),
        proven=True,
        arithmetic="int8",
        reason="the integer operator of matrix products",
        bias_reach=int(np.rint(np.abs(BIAS) / (SX * SW)).max()),
    )
    assert done == Conversion(
        source=source,
        fake_quant=tmp_path / "net_fake_quant_model.onnx",
        deploy=tmp_path / "net_deploy_model.onnx",
        target="ort",
        layers=(summary,),
        left_in_float=(FloatOperator("float", "MatMul", "its input is not dequantized"),),
    )


@pytest.mark.parametrize(
    ("zero", "bits", "signed"),
    [(np.int8(3), 8, 3), (np.uint8(3), 8, -125), (np.int16(3), 16, 3), (np.uint16(3), 16, -32765)],
)
def test_zero_points_are_reported_signed(tmp_path, zero, bits, signed):
    source = save(model(MATMUL, zx=zero, opset=21), tmp_path)
    (layer,) = convert_qat_model(source, tmp_path / "net").layers
    assert (layer.bits, layer.zero_point_x) == (bits, signed)


@pytest.mark.parametrize(
    ("target", "op", "form"),
    [
        ("ort", "Conv", "ConvInteger"),
        ("ort", "ConvTranspose", "ConvInteger"),
        ("qdq", "Conv", "QDQ"),
        ("qdq", "ConvTranspose", "QDQ"),
        ("ascend", "Conv", "AscendQuant/AscendDequant"),
        ("ascend", "ConvTranspose", "AscendQuant/AscendDequant"),
    ],
)
def test_the_form_is_reported(tmp_path, target, op, form):
    body = X + W.replace("= 1", f"= {int(op == 'ConvTranspose')}") + f"y = {op} (xd, wd)"
    sizes = {"inputs": "float[N, 3, H, V] x", "outputs": "float[N, 3, H, V] y"}
    proto = model(body, **sizes, w=np.ones((3, 3, 1, 1), np.int8), sw=np.float32(1), zw=np.int8(0))
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net", target=target)
    assert [(layer.op, layer.form) for layer in done.layers] == [(op, form)]
    assert done.target == target


def test_a_model_without_quantized_layers_says_what_it_found(tmp_path):
    body = "[a] m = MatMul (x, f) [b] y = MatMul (m, f)"
    source = save(model(body, outputs="float[N, 3] y", f=np.eye(3, dtype=np.float32)), tmp_path)
    with pytest.raises(ConversionError) as error:
        convert_qat_model(source, tmp_path / "net")
    assert str(error.value) == (
        f"{source} has no quantized layer (MatMul 'a': its input is not dequantized; "
        "MatMul 'b': its input is not dequantized)"
    )
    source = save(model("y = Relu (x)"), tmp_path)
    with pytest.raises(ConversionError, match=r"has no quantized layer$"):
        convert_qat_model(source, tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["inter.onnx"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_model_in_memory_and_the_source_file_are_left_as_they_are(tmp_path, target):
    proto = model(GEMM, b=BIAS, sw=np.float32(0.01), zw=np.int8(0))
    path = save(proto, tmp_path)
    source = read_model(path)
    before = [(node.op_type, node.name) for node in source.graph]
    convert_model(source, target=target)
    assert [(node.op_type, node.name) for node in source.graph] == before
    convert_qat_model(path, tmp_path / "net", target=target)
    assert onnx.load(path) == proto


def test_two_conversions_of_one_file_are_equal(tmp_path):
    source = save(model(GEMM, b=BIAS), tmp_path)
    first = convert_qat_model(source, tmp_path / "a")
    second = convert_qat_model(source, tmp_path / "b")
    assert first.deploy.read_bytes() == second.deploy.read_bytes()
    assert first.fake_quant.read_bytes() == second.fake_quant.read_bytes()
    assert dataclasses.replace(second, fake_quant=first.fake_quant, deploy=first.deploy) == first
