"""The record file: the quantization factors as protobuf text."""

import re

import numpy as np
import pytest

from bridge import convert_qat_model
from bridge.export.files.writing import write_models
from bridge.export.result.record import record_text
from tests.support.graphs.text import GEMM, MATMUL, SW, SX, W, X, model, read, save, the_layer


def test_one_record_by_hand(tmp_path):
    proto = model(MATMUL, sx=np.float32(0.5), sw=np.array([0.25, 0.125], np.float32))
    assert record_text([the_layer(proto, tmp_path)]) == (
        "record {\n"
        '  key: "fc"\n'
        "  value {\n"
        "    scale_d: 5.e-01\n"
        "    offset_d: -7\n"
        "    scale_w: 2.5e-01\n"
        "    scale_w: 1.25e-01\n"
        "    offset_w: 0\n"
        "    offset_w: 0\n"
        "  }\n"
        "}\n"
    )


def test_one_record_a_layer_in_order(tmp_path):
    body = X + W + "[first] m = MatMul (xd, wd) [second] n = MatMul (xd, wd) y = Add (m, n)"
    layers, _ = read(model(body), tmp_path)
    assert re.findall(r'key: "(.*)"', record_text(layers)) == ["first", "second"]
    assert record_text([]) == ""


def test_numbers_read_back_exactly(tmp_path):
    scale = np.float32(1) / np.float32(3)
    tiny = np.array([1.1754944e-38, 3.4028235e38], np.float32)
    proto = model(MATMUL, sx=scale, sw=tiny)
    text = record_text([the_layer(proto, tmp_path)])
    (scale_d,) = re.findall(r"scale_d: (\S+)", text)
    assert np.float32(scale_d) == scale
    assert np.array(re.findall(r"scale_w: (\S+)", text), np.float32).tolist() == tiny.tolist()


@pytest.mark.parametrize(
    ("zero", "offset"),
    [
        (np.int8(5), 5),
        (np.uint8(0), -128),
        (np.uint8(255), 127),
        (np.int16(-300), -300),
        (np.uint16(40000), 7232),
    ],
)
def test_offsets_are_signed(tmp_path, zero, offset):
    layer = the_layer(model(MATMUL, zx=zero, opset=21), tmp_path)
    assert f"offset_d: {offset}\n" in record_text([layer])


def test_names_are_escaped(tmp_path):
    proto = model(MATMUL)
    proto.graph.node[-1].name = 'a "b" \\c'
    text = record_text([the_layer(proto, tmp_path)])
    assert r'key: "a \"b\" \\c"' in text


def test_writing_makes_folders_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "record.txt"
    write_models({}, {path: "one"})
    write_models({}, {path: "two"})
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["record.txt"]


def test_the_conversion_writes_it_where_asked(tmp_path):
    proto = model(GEMM, b=np.ones(2, np.float32))
    record = tmp_path / "out" / "record.txt"
    convert_qat_model(save(proto, tmp_path), tmp_path / "out" / "net", record)
    assert record.read_text() == record_text([the_layer(proto, tmp_path)])
    named = tmp_path / "named.txt"
    convert_qat_model(tmp_path / "inter.onnx", tmp_path / "net", record_file=str(named))
    assert named.read_text() == record.read_text()
    assert f"scale_d: {np.format_float_scientific(SX)}" in named.read_text()
    assert named.read_text().count("scale_w") == len(SW)
