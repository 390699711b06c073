"""convert_qat_model's options: of another kind, out of range, or ignored by the target."""

from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest
import torch

import bridge
from bridge import convert_qat_model
from bridge.export.convert import OrtOptions, QdqOptions
from tests.support.graphs.text import MATMUL, model, save

WRONG_KINDS = [
    {"fold_batch_norm": "no"},
    {"fold_batch_norm": 1},
    {"fold_batch_norm": None},
    {"vnni": "no"},
    {"vnni": 0},
    {"follow_symlinks": "no"},
    {"symmetric": "no", "target": "qdq"},
    {"tune": "yes"},
    {"tune": 1},
    {"tune": None},
    {"max_ulps": True},
    {"max_ulps": "3"},
    {"max_ulps": 1.5},
    {"max_ulps": None},
    {"opset": "17", "target": "qdq"},
    {"opset": 17.0, "target": "qdq"},
    {"opset": True, "target": "qdq"},
    {"data": np.zeros((2, 3), np.float32), "mode": "fast"},
    {"data": torch.zeros(2, 3), "mode": "fast"},
    {"data": {"x": torch.zeros(2, 3)}, "mode": "fast"},
    {"data": "batches", "mode": "fast"},
    {"data": 3, "mode": "fast"},
    {"record_file": 3},
    {"save_path": None},
    {"save_path": b"net"},
    {"model_file": 3},
]

WRONG_VALUES = [
    {"max_ulps": -1},
    {"max_ulps": 4097},
    {"max_ulps": 10**30},
    {"opset": 12, "target": "qdq"},
    {"opset": 22, "target": "qdq"},
    {"mode": "quick"},
    {"mode": True},
    {"mode": ["fast"]},
    {"target": "ORT"},
    {"target": ["ort"]},
    {"record_file": ""},
    {"record_file": "folder/"},
]

IGNORED = [
    ("vnni", True, "qdq", "ort"),
    ("vnni", True, "ascend", "ort"),
    ("max_ulps", 8, "qdq", "ort"),
    ("max_ulps", 0, "ascend", "ort"),
    ("tune", True, "ascend", "ort"),
    ("symmetric", True, "ort", "qdq"),
    ("opset", 17, "ascend", "qdq"),
    ("mode", "fast", "qdq", "ort"),
]


def refused(folder, kind, **options):
    """The message of an error that comes before anything is read or written."""
    source = save(model(MATMUL), folder)
    arguments = {"model_file": source, "save_path": folder / "net"} | options
    with pytest.raises(kind) as error:
        convert_qat_model(**arguments)
    assert [path.name for path in folder.iterdir()] == ["inter.onnx"]
    return str(error.value)


@pytest.mark.parametrize("options", WRONG_KINDS, ids=str)
def test_another_kind(tmp_path, options):
    message = refused(tmp_path, TypeError, **options)
    name = next(iter(options))
    assert message.startswith(f"{name} must be ")
    assert "got " in message


@pytest.mark.parametrize("options", WRONG_VALUES, ids=str)
def test_out_of_range(tmp_path, options):
    message = refused(tmp_path, ValueError, **options)
    assert message.startswith(f"{next(iter(options))} must ")


@pytest.mark.parametrize(("name", "value", "target", "only"), IGNORED)
def test_what_a_target_would_ignore(tmp_path, name, value, target, only):
    data = {"data": [np.zeros((2, 3), np.float32)]} if name == "mode" else {}
    message = refused(tmp_path, ValueError, target=target, **{name: value}, **data)
    assert message.startswith(name)
    assert message.endswith(f"is for target {only!r}, got target {target!r}")


def test_integers_of_numpy_are_integers(tmp_path):
    source = save(model(MATMUL), tmp_path)
    convert_qat_model(source, tmp_path / "net", max_ulps=np.int64(3))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (bridge.ort(), {}),
        (bridge.ort(max_ulps=0, vnni=True), {"target": "ort", "max_ulps": 0, "vnni": True}),
        (bridge.qdq(opset=14), {"target": "qdq", "opset": 14}),
        (bridge.ascend(), {"target": "ascend"}),
    ],
    ids=str,
)
def test_a_name_with_options_is_short_for_the_target(tmp_path, target, options):
    source = save(model(MATMUL, sw=np.float32(0.01), zw=np.int8(0)), tmp_path)
    done = convert_qat_model(source, tmp_path / "done", target=target)
    short = convert_qat_model(source, tmp_path / "short", **options)
    assert done.target == short.target == target.name
    for one, other in ((done.fake_quant, short.fake_quant), (done.deploy, short.deploy)):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (bridge.qdq, "vnni"),
        (bridge.qdq, "mode"),
        (bridge.ort, "opset"),
        (bridge.ort, "symmetric"),
        (bridge.ascend, "tune"),
        (bridge.ascend, "opset"),
    ],
)
def test_a_target_has_no_option_of_another(target, name):
    with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{name}'"):
        target(**{name: True})


def test_options_are_given_by_name():
    for target in (bridge.ort, bridge.qdq, bridge.ascend):
        with pytest.raises(TypeError, match="positional argument"):
            target(True)


def test_options_beside_a_target(tmp_path):
    message = refused(tmp_path, TypeError, target=bridge.qdq(), opset=13)
    assert message == "opset is an option of the target: target=bridge.qdq(opset=...)"


def test_a_target_is_called(tmp_path):
    message = refused(tmp_path, TypeError, target=bridge.ascend)
    assert message == "target must be a target, got its class; call it: target=bridge.ascend()"


def test_an_option_that_no_target_has(tmp_path):
    message = refused(tmp_path, TypeError, exact=True)
    assert message == "convert_qat_model has no option 'exact'"


@pytest.mark.parametrize(
    ("target", "short"), [(bridge.ort, OrtOptions), (bridge.qdq, QdqOptions)], ids=["ort", "qdq"]
)
def test_the_shorthand_is_typed_as_the_target_is(target, short):
    hints = get_type_hints(target)
    assert get_type_hints(short) == {field.name: hints[field.name] for field in fields(target)}


def test_ascend_has_no_options():
    assert fields(bridge.ascend) == ()
