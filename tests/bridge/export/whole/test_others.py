"""Models that other tools quantized: what is read in them, and that deploy equals fake-quant."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bridge import ascend_twin, convert_qat_model, explain
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.other_tools import make
from tests.support.runtime import LEVELS, session_at

FOLDER = Path(make.__file__).parent

MOBILE = [
    *("net.0", "net.2.body.0", "net.2.body.2", "net.2.body.4"),
    *("net.3.body.0", "net.3.body.2", "net.3.body.4", "fc"),
]
BLOCKS = ["stem", "b1.conv1", "b1.conv2", "b2.conv1", "b2.conv2", "b2.down", "fc"]
ALL_FOUR = ["conv", "up", "rows", "head"]
# XNNPACK's quantizer scales a transposed convolution's weight along its inputs.
ALONG_INPUTS = "its weight scale varies within an output channel"
FOUND = {
    "ort_per_channel": (ALL_FOUR, {}),
    "ort_per_tensor": (ALL_FOUR, {}),
    "ort_float_biases": (ALL_FOUR, {}),
    "ort_weight_pairs": (ALL_FOUR, {}),
    "ort_unsigned_weights": (ALL_FOUR, {}),
    "ort_residual": (["first", "second", "head"], {}),
    "pt2e": (["conv", "node_MatMul_25", "head"], {"up": ALONG_INPUTS}),
    "brevitas": (["1", "3", "6"], {}),
    "brevitas_mobile": (
        ["net.0", "body.0", "body.2", "body.4", "body.0_1", "body.2_1", "body.4_1", "fc"],
        {},
    ),
    "brevitas_blocks": (["stem", "conv1", "conv2", "conv1_1", "conv2_1", "down", "fc"], {}),
    "nncf_mobile": (MOBILE, {}),
    "nncf_mobile_mixed": (MOBILE, {}),
    "nncf_blocks": (BLOCKS, {}),
    "quark_mobile": (MOBILE, {}),
    "quark_blocks": (
        ["stem", "b1.conv1", "b1.conv2", "b2.conv1", "b2.down", "b2.conv2", "fc"],
        {},
    ),
    "aimet": (ALL_FOUR, {}),
    "aimet_residual": (["first", "second", "head"], {}),
}
"""Names of the layers in each file, and what stays in float."""


def run(path, x, level="DISABLE_ALL"):
    """The output for each of several inputs."""
    session = session_at(path, level)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one})[0] for one in x])


def data(name=""):
    """Inputs, enough of them that codes next to ties occur."""
    shape = make.LARGE if name.endswith(("mobile", "mixed", "blocks")) else make.SHAPE
    return np.random.default_rng(1).normal(size=(40, *shape)).astype(np.float32)


def test_every_file_has_a_maker_and_a_test():
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(make.MAKERS) == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_what_is_read(tmp_path, name):
    done = convert_qat_model(FOLDER / f"{name}.onnx", tmp_path / "net")
    layers, floats = FOUND[name]
    assert [layer.name for layer in done.layers] == layers
    assert {operator.name: operator.reason for operator in done.left_in_float} == floats


@pytest.mark.parametrize("name", FOUND)
def test_deploy_equals_fake_quant_at_every_level(tmp_path, name):
    done = convert_qat_model(FOLDER / f"{name}.onnx", tmp_path / "net")
    x = data(name)
    expected = run(done.fake_quant, x)
    assert len(np.unique(expected)) > 10
    for level in LEVELS:
        assert same_bits(run(done.fake_quant, x, level), expected), level
        assert same_bits(run(done.deploy, x, level), expected), level


# In the other networks channels are so few that integer-valued floats are faster.
@pytest.mark.parametrize("name", [n for n in FOUND if n.endswith(("mobile", "mixed", "blocks"))])
def test_the_share_that_is_computed_in_int8(tmp_path, name):
    done = convert_qat_model(FOLDER / f"{name}.onnx", tmp_path / "net")
    assert explain(done).int8_share > 0.9


# Float biases are rounded to the accumulator's steps when they are read, so such files are others.
FLOAT_BIASES = ("ort_float_biases", "aimet_residual")
QUANTIZES_ITS_OUTPUT = [n for n in FOUND if n.startswith(("ort_", "aimet"))]
WITH_INTEGER_BIASES = [n for n in QUANTIZES_ITS_OUTPUT if n not in FLOAT_BIASES]


@pytest.mark.parametrize("name", WITH_INTEGER_BIASES)
def test_fake_quant_is_the_model_it_was_made_of(tmp_path, name):
    # Every value of these files, the output too, is quantized again, which hides what rounds
    # differently inside; a bias or a scale that were read wrongly would show.
    path = FOLDER / f"{name}.onnx"
    done = convert_qat_model(path, tmp_path / "net")
    assert same_bits(run(done.fake_quant, data()), run(path, data()))


@pytest.mark.parametrize("name", FOUND)
def test_the_portable_form_of_them(tmp_path, name):
    done = convert_qat_model(FOLDER / f"{name}.onnx", tmp_path / "net", target="qdq")
    again = convert_qat_model(done.deploy, tmp_path / "again", target="qdq")
    assert [layer.name for layer in again.layers] == FOUND[name][0]
    x = data(name)
    expected = run(done.fake_quant, x)
    assert same_bits(run(again.fake_quant, x), expected)
    error = np.abs(run(done.deploy, x) - expected).max()
    assert error <= 1e-6 * np.abs(expected).max()  # no code moved; float32's last bits


UNSIGNED = "target 'ascend' takes int8 weights without a zero point"
LEFT_BY_ASCEND = {
    "ort_unsigned_weights": {"up": UNSIGNED, "head": UNSIGNED},
    "brevitas": {"6": "target 'ascend' takes one weight scale per tensor for Gemm, got 5"},
}


# The others have per-channel weight scales for a matrix product.
@pytest.mark.parametrize(
    "name", ["ort_per_tensor", "ort_weight_pairs", "ort_unsigned_weights", "brevitas"]
)
def test_the_ascend_form_of_them(tmp_path, name):
    done = convert_qat_model(FOLDER / f"{name}.onnx", tmp_path / "net", target="ascend")
    left = {operator.name: operator.reason for operator in done.left_in_float}
    assert left == LEFT_BY_ASCEND.get(name, {})
    twin = ascend_twin(done.deploy, tmp_path / "twin.onnx")
    onnx.checker.check_model(twin, full_check=True)
    x = data()
    expected = run(done.fake_quant, x)
    evaluated = [next(iter(run_model(done.deploy, [one]).values())) for one in x]
    assert same_bits(np.concatenate(evaluated), expected)
    for level in LEVELS:
        assert same_bits(run(twin, x, level), expected), level
