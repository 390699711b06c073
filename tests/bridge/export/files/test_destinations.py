"""A conversion never overwrites a file that it reads, nor writes two files to one path."""

import os

import numpy as np
import onnx
import pytest

from bridge import ascend_twin, convert_qat_model
from tests.support.graphs.text import BIAS, GEMM, MATMUL, model, save


def contents(folder):
    return {
        str(path.relative_to(folder)): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def refused(folder, message, *arguments, **options):
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
        convert_qat_model(*arguments, **options)
    assert contents(folder) == before


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(model(MATMUL), tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        "net_deploy_model.onnx",
        "net_fake_quant_model.onnx",
        "NET_deploy_model.onnx",
        "./net_deploy_model.onnx.data",
        "folder/../net_deploy_model.onnx",
        "link/net_deploy_model.onnx",
    ],
)
def test_a_record_is_no_model(source, tmp_path, record):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    refused_by = "^record_file must differ from the models that are written"
    refused(tmp_path, refused_by, source, "net", tmp_path / record)


@pytest.mark.parametrize("record", ["inter.onnx", "link.txt", "hard.txt", "folder/../inter.onnx"])
def test_a_record_is_not_the_source(source, tmp_path, record):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.txt").symlink_to("inter.onnx")
    os.link(source, tmp_path / "hard.txt")
    refused(tmp_path, "^record_file: .* would replace .*inter.onnx", source, "net", record)


@pytest.mark.parametrize("kind", ["fake_quant", "deploy"])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_source_is_kept(tmp_path, kind, link):
    source = save(model(MATMUL), tmp_path, f"net_{kind}_model.onnx")
    if link is not None:
        link(source, tmp_path / f"other_{kind}_model.onnx")
    prefix = tmp_path / ("net" if link is None else "other")
    refused(tmp_path, f"^save_path: .*_{kind}_model.onnx would replace", source, prefix)


@pytest.mark.parametrize(
    ("location", "prefix", "record", "message"),
    [
        ("net_deploy_model.onnx.data", "net", None, "^save_path: .*onnx.data would replace"),
        ("net_deploy_model.onnx", "net", None, "^save_path: .*deploy_model.onnx would replace"),
        ("weights.txt", "net", "weights.txt", "^record_file: .*weights.txt would replace"),
    ],
)
def test_the_data_of_the_source_is_kept(tmp_path, location, prefix, record, message):
    proto, path = model(GEMM, b=BIAS), tmp_path / "inter.onnx"
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, location=location)
    record = None if record is None else tmp_path / record
    refused(tmp_path, message, path, tmp_path / prefix, record)


@pytest.mark.parametrize(
    ("record", "folder"), [("record", "record"), (None, "net_deploy_model.onnx")]
)
def test_a_folder_is_no_place_for_a_file(source, tmp_path, record, folder):
    (tmp_path / folder).mkdir()
    refused(tmp_path, f"{folder}, which is a folder$", source, "net", record)


def test_a_record_below_a_file_leaves_nothing(source, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(OSError, match=r"inter\.onnx"):
        convert_qat_model(source, "new/folder/net", source / "record.txt")
    assert contents(tmp_path) == before


def test_a_record_in_a_folder_of_its_own(source, tmp_path):
    convert_qat_model(source, "out/net", "records/of/net.txt")
    assert contents(tmp_path).keys() == {
        *("inter.onnx", "out", "out/net_fake_quant_model.onnx", "out/net_deploy_model.onnx"),
        *("records", "records/of", "records/of/net.txt"),
    }


def test_a_twin_does_not_replace_its_model(tmp_path):
    proto = model(MATMUL, sw=np.float32(0.01), zw=np.int8(0))
    deploy = convert_qat_model(save(proto, tmp_path), tmp_path / "n", target="ascend").deploy
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"^save_file: .*n_deploy_model\.onnx would replace"):
        ascend_twin(deploy, tmp_path / "n_deploy_model.onnx")
    assert contents(tmp_path) == before
