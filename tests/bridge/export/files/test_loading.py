"""bridge.export.files.loading: which files are accepted, and that none is left incomplete."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bridge import ConversionError, convert_qat_model, explain, verify
from bridge.export.files import writing
from bridge.export.normalize.model import read_model
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import (
    BIAS,
    GEMM,
    INTEGERS,
    MATMUL,
    SW,
    SX,
    ZX,
    W,
    X,
    batch,
    codes,
    model,
    rescaled,
    save,
    with_inputs,
)

WIDE = np.tile(INTEGERS, (100, 1))


def large(**more):
    """A model with a weight that is large enough for external data."""
    return model(GEMM, inputs="float[N, 300] x", w=WIDE, b=BIAS, **more)


def expected(x):
    return rescaled(codes(x, SX, ZX) @ WIDE.astype(np.int64), SX, SW, BIAS)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_functions_and_constants_are_brought_to_one_form(tmp_path):
    body = "sx = Constant <value = float {0.05}> ()" + X + W + "y = local.product (xd, wd)"
    functions = (
        '<domain: "local", opset_import: ["" : 17]> product (a, b) => (c) { c = MatMul (a, b) }'
    )
    proto = model(body, functions=functions, sx=None)
    graph = read_model(save(proto, tmp_path)).graph
    operators = [node.op_type for node in graph]
    assert operators == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.initializers["sx"].const_value.numpy() == SX


def test_initializers_are_no_inputs_any_more_where_they_had_to_be(tmp_path):
    read = read_model(save(with_inputs(model(MATMUL), ir_version=3), tmp_path))
    assert [value.name for value in read.graph.inputs] == ["x"]
    assert read.ir_version == 4
    path = save(with_inputs(model(MATMUL), "w", ir_version=4), tmp_path)
    assert [value.name for value in read_model(path).graph.inputs] == ["x", "w"]


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 23])
def test_opsets_from_13_on_are_read(tmp_path, opset):
    path = save(model(MATMUL, opset=opset), tmp_path)
    assert read_model(path).opset_imports[""] == opset


@pytest.mark.parametrize("opset", [7, 12])
def test_older_opsets_are_refused(tmp_path, opset):
    path = save(model("y = Relu (x)", opset=opset), tmp_path)
    with pytest.raises(
        ConversionError, match=rf"inter\.onnx: opset must be 13 or later, got {opset}"
    ):
        read_model(path)


def test_a_model_without_standard_operators_is_refused(tmp_path):
    proto = model("y = Relu (x)")
    proto.opset_import[0].domain = "ai.onnx.ml"
    with pytest.raises(ConversionError, match="opset must be 13 or later, got None"):
        read_model(save(proto, tmp_path))


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ONNX model at .*absent\.onnx"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(FileNotFoundError, match="no ONNX model at"):
        read_model(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.98])
def test_a_truncated_file(tmp_path, kept):
    whole = large().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        ConversionError, match=r"cut\.onnx(: opset must be| is not a readable ONNX| is empty)"
    ):
        read_model(path)


@pytest.mark.parametrize("data", [b"hello, this is no model", b"\x00" * 64, b"PK\x03\x04zip"])
def test_another_kind_of_file(tmp_path, data):
    path = tmp_path / "other.onnx"
    path.write_bytes(data)
    with pytest.raises(ConversionError, match=r"other\.onnx is not a readable ONNX model"):
        read_model(path)


@pytest.fixture
def external(tmp_path):
    """The large model with its weight as external data."""
    path = tmp_path / "inter.onnx"
    onnx.save(
        large(), path, save_as_external_data=True, size_threshold=500, location="inter.weights"
    )
    assert (tmp_path / "inter.weights").stat().st_size == WIDE.nbytes
    return path


def test_a_model_with_external_data_is_converted(external, tmp_path):
    done = convert_qat_model(external, tmp_path / "out" / "net")
    assert sorted(contents(tmp_path / "out")) == [
        "net_deploy_model.onnx",
        "net_fake_quant_model.onnx",
    ]
    x = batch(columns=300)
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["y"], expected(x))


def test_external_data_that_both_models_keep(tmp_path):
    # The quantizer reads sx in both models; f belongs to an operator that stays in float.
    body = GEMM.replace("y =", "m =") + " y = MatMul (m, f)"
    proto = model(body, b=BIAS, f=np.eye(2, dtype=np.float32))
    path = tmp_path / "inter.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, location="weights")
    done = convert_qat_model(path, tmp_path / "out" / "net")
    x = batch()
    for path in (done.fake_quant, done.deploy):
        y = rescaled(codes(x, SX, ZX) @ INTEGERS.astype(np.int64), SX, SW, BIAS)
        assert same_bits(run_model(path, [x])["y"], y)


def test_external_data_that_is_gone(external, tmp_path):
    (tmp_path / "inter.weights").unlink()
    with pytest.raises(FileNotFoundError, match=r"inter\.weights"):
        convert_qat_model(external, tmp_path / "out" / "net")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["inline", "external"])
def test_models_beyond_the_limit_get_their_data_beside_them(
    external, tmp_path, monkeypatch, source
):
    monkeypatch.setattr(writing, "_INLINE_LIMIT", 0)
    path = external if source == "external" else save(large(), tmp_path, "inline.onnx")
    done = convert_qat_model(path, tmp_path / "out" / "net")
    names = [f"net_{kind}_model.onnx" for kind in ("deploy", "fake_quant")]
    assert sorted(contents(tmp_path / "out")) == sorted([*names, *(f"{n}.data" for n in names)])
    sizes = [(tmp_path / "out" / f"{name}.data").stat().st_size for name in names]
    assert sizes == [WIDE.nbytes, 4 * WIDE.nbytes]
    x = batch(columns=300)
    for path in (done.fake_quant, done.deploy):
        assert path.stat().st_size < 3000
        nodes = onnx.load(path, load_external_data=False).graph.node
        inner = [name for node in nodes for name in node.output if name != "y"]
        values = run_model(path, [x], inner)
        assert list(values) == ["y", *inner]
        assert same_bits(values["y"], expected(x))
        onnx.checker.check_model(str(path), full_check=True)


def test_the_limit_counts_bytes_of_initializers(tmp_path, monkeypatch):
    # deploy holds 600 bytes of int8 weight, fake-quant 2400 of float.
    monkeypatch.setattr(writing, "_INLINE_LIMIT", 1000)
    convert_qat_model(save(large(), tmp_path), tmp_path / "out" / "net")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "net_deploy_model.onnx",
        "net_fake_quant_model.onnx",
        "net_fake_quant_model.onnx.data",
    }


def test_types_of_initializers_are_stated_once(tmp_path):
    done = convert_qat_model(save(model(GEMM, b=BIAS), tmp_path), tmp_path / "net")
    for path in (done.fake_quant, done.deploy):
        graph = onnx.load(path).graph
        stated = {value.name for value in graph.value_info}
        assert graph.initializer
        assert stated.isdisjoint(value.name for value in graph.initializer)


def test_writing_leaves_nothing_else_behind(tmp_path):
    convert_qat_model(save(large(), tmp_path), tmp_path / "new" / "folders" / "net")
    assert sorted(contents(tmp_path / "new")) == [
        "net_deploy_model.onnx",
        "net_fake_quant_model.onnx",
    ]
    assert [path.name for path in (tmp_path / "new" / "folders").iterdir() if path.is_dir()] == []


def test_files_of_an_earlier_run_are_replaced(tmp_path):
    first = convert_qat_model(save(large(), tmp_path), tmp_path / "net")
    before = contents(tmp_path)
    proto = large(sx=np.float32(0.1))
    second = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    assert first.deploy == second.deploy
    after = contents(tmp_path)
    assert sorted(after) == sorted(before)
    for path in (second.fake_quant, second.deploy):
        assert after[path.name] != before[path.name]


class DiskFullError(OSError):
    pass


@pytest.mark.parametrize("failing", ["net_fake_quant_model.onnx", "net_deploy_model.onnx"])
def test_when_one_model_cannot_be_written_nothing_changes(tmp_path, monkeypatch, failing):
    source = save(large(), tmp_path)
    convert_qat_model(source, tmp_path / "net")
    save(large(sx=np.float32(0.1)), tmp_path)
    before = contents(tmp_path)
    save_whole = ir.save

    def save_half(one, path, **more):
        save_whole(one, path, **more)
        if path.name == failing:
            path.write_bytes(path.read_bytes()[:100])
            raise DiskFullError("no space left")

    monkeypatch.setattr(ir, "save", save_half)
    with pytest.raises(DiskFullError):
        convert_qat_model(source, tmp_path / "net")
    assert contents(tmp_path) == before
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_name_that_is_no_text_leaves_no_folder(tmp_path):
    # A quantizer with a uint8 zero point is not changed, nor is its name.
    data = model(MATMUL, zx=np.uint8(7)).SerializeToString()
    path = tmp_path / "inter.onnx"
    path.write_bytes(data.replace(b"quantize_x", b"quantiz\xe9_x"))
    with pytest.raises(ConversionError, match=r"net_\w+\.onnx cannot be written: .*utf-8"):
        convert_qat_model(path, tmp_path / "new" / "folder" / "net")
    assert contents(tmp_path).keys() == {"inter.onnx"}
    assert not (tmp_path / "new").exists()


def test_a_model_is_never_in_place_before_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_INLINE_LIMIT", 0)
    moved, replace = [], os.replace

    def watched(old, new):
        if Path(new).parent == tmp_path:
            moved.append(Path(new).suffix)
        replace(old, new)

    monkeypatch.setattr(os, "replace", watched)
    convert_qat_model(save(large(), tmp_path), tmp_path / "net")
    assert moved == [".data", ".data", ".onnx", ".onnx"]


@pytest.fixture
def hub(tmp_path):
    """A model whose file and whose weights are links to blobs, as model hubs store them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    onnx.save(large(), blobs / "a", save_as_external_data=True, location="b", size_threshold=100)
    proto = onnx.load(blobs / "a", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "model.onnx_data"
    onnx.save(proto, blobs / "a")
    (snapshot / "model.onnx").symlink_to(blobs / "a")
    (snapshot / "model.onnx_data").symlink_to(Path("..", "..", "blobs", "b"))
    return snapshot / "model.onnx"


def test_weights_that_are_links_are_taken_where_the_caller_says_so(tmp_path, hub):
    done = convert_qat_model(hub, tmp_path / "net", follow_symlinks=True)
    x = np.random.default_rng(0).normal(0.0, 4.0, (3, 300)).astype(np.float32)
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["y"], expected(x))
    (layer,) = explain(done).layers
    assert layer.form == "MatMulInteger"
    assert verify(None, done, x).exact
    with pytest.raises(ConversionError, match="lies outside the model's folder"):
        verify(None, done.source, done.fake_quant, done.deploy, x)


def test_weights_that_are_links_are_refused_otherwise(tmp_path, hub):
    message = "lies outside the model's folder.*symbolic link, which follow_symlinks=True allows"
    with pytest.raises(ConversionError, match=message):
        convert_qat_model(hub, tmp_path / "net")


@pytest.mark.parametrize("place", ["../secret", "sub/../../secret"])
def test_links_allow_no_paths_outside_the_folder(tmp_path, place):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(WIDE.tobytes())
    proto = large()
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    path = save(proto, tmp_path / "model")
    with pytest.raises(ConversionError, match="lies outside the model's folder"):
        convert_qat_model(path, tmp_path / "net", follow_symlinks=True)


def test_data_of_a_constant_node_stays_in_the_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(WIDE.tobytes())
    proto = large()
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "w")
    proto.graph.initializer.remove(weight)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    path = save(proto, tmp_path / "model")
    with pytest.raises(ConversionError, match=r"outside the|not a valid ONNX model"):
        convert_qat_model(path, tmp_path / "net")
