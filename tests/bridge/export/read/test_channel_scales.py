"""read.channel_scales: inputs with a scale per channel, of depthwise layers."""

import numpy as np
import onnx
import pytest

from bridge import convert_qat_model
from tests.support.conversions import converted_right
from tests.support.graphs.text import W, model, save, the_reason
from tests.support.runtime import outputs_at

RNG = np.random.default_rng(2)
X = (
    "xq = QuantizeLinear <axis: int = {axis}> (x, sx, zx) "
    "[dequantize_x] xd = DequantizeLinear <axis: int = {axis}> (xq, sx, zx) "
)
DEPTHWISE = "[conv] y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (xd, wd, b)"
SCALES = np.float32([0.05, 0.01, 0.2, 0.0125])
IMAGE = {"inputs": "float[2, 4, 6, 6] x", "outputs": "float[A, B, C, D] y"}


def layer(
    last: str = DEPTHWISE, *, groups: int = 4, outputs: int = 4, axis: int = 1, **arrays: object
) -> onnx.ModelProto:
    weight = RNG.integers(-128, 128, (outputs, 4 // groups, 3, 3)).astype(np.int8)
    given = {
        "sx": SCALES,
        "zx": np.zeros(4, np.uint8),
        "w": weight,
        "sw": np.linspace(0.01, 0.02, outputs).astype(np.float32),
        "zw": np.zeros(outputs, np.int8),
        "b": RNG.normal(size=outputs).astype(np.float32),
    }
    body = X.format(axis=axis) + W.replace("= 1", "= 0") + last.format(groups=groups)
    return model(body, **(IMAGE | given | arrays))


def batch() -> np.ndarray:
    return RNG.normal(0.0, 3.0, (2, 4, 6, 6)).astype(np.float32)


APART = {"zx": np.uint8([0, 255, 3, 128])}
CASES = {
    "depthwise": layer(),
    "axis -3": layer(axis=-3),
    "two outputs a channel": layer(outputs=8),
    "signed": layer(zx=np.zeros(4, np.int8)),
    "around a zero point": layer(zx=np.full(4, 100, np.uint8)),
    "one scale of the weight": layer(sw=np.float32(0.01), zw=np.int8(0)),
    "groups of one scale each": layer(groups=2, sx=SCALES[[0, 0, 1, 1]]),
    "zero points that differ": layer(**APART),
    "signed zero points that differ": layer(zx=np.int8([-128, 5, 127, 0])),
    "zero points that differ, without a bias": layer(DEPTHWISE.replace(", b)", ")"), **APART),
    "zero points that differ, without padding": layer(
        DEPTHWISE.replace(", pads = [1, 1, 1, 1]", ""), **APART
    ),
    "zero points that differ, uneven padding": layer(
        DEPTHWISE.replace("1, 1, 1, 1", "0, 2, 1, 0"), **APART
    ),
    "one scale but zero points that differ, one group": layer(
        groups=1, sx=np.full(4, 0.05, np.float32), **APART
    ),
    "the same scales": layer(groups=1, sx=SCALES[[0, 0, 0, 0]]),
    "16 bits": layer(zx=np.zeros(4, np.int16)),
    "transposed": layer(
        "[conv] y = ConvTranspose <group = 4, strides = [2, 2]> (xd, wd, b)",
        sw=np.float32(0.01),
        zw=np.int8(0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_layer_is_quantized(tmp_path, case):
    proto = CASES[case]
    if case == "16 bits":
        proto.opset_import[0].version, proto.ir_version = 21, 10
    done = converted_right(proto, tmp_path, batch(), error=2e-2)
    assert not done.left_in_float
    assert [one.name for one in done.layers] == ["conv"]


@pytest.mark.parametrize("case", ["depthwise", "zero points that differ", "signed"])
def test_the_portable_form_reads_back(tmp_path, case):
    source = save(CASES[case], tmp_path)
    done = convert_qat_model(source, tmp_path / "net", target="qdq")
    again = convert_qat_model(done.deploy, tmp_path / "again", target="qdq")
    x = batch()
    first, second, portable = (
        outputs_at(path.read_bytes(), x, "DISABLE_ALL")[0]
        for path in (done.fake_quant, again.fake_quant, done.deploy)
    )
    assert first.tobytes() == second.tobytes()
    assert np.abs(portable - first).max() < 1e-3


def test_a_depthwise_layer_is_a_chain(tmp_path):
    last = DEPTHWISE.replace("y =", "c =") + (
        " r = Relu (c) rq = QuantizeLinear (r, sr, zr) y = DequantizeLinear (rq, sr, zr)"
    )
    proto = layer(last, sr=np.float32(0.1), zr=np.uint8(0))
    done = converted_right(proto, tmp_path, batch(), error=0.11)
    assert [one.form for one in done.layers] == ["QLinearConv"]


REASONS = {
    "one group": (
        layer(groups=1),
        "its input is quantized per channel, and its sums go over channels of different scales",
    ),
    "zero points that differ, and padding by the size of the input": (
        layer(DEPTHWISE.replace("pads = [1, 1, 1, 1]", 'auto_pad = "SAME_UPPER"'), **APART),
        "the zero points of its input differ between channels",
    ),
    "zero points that differ, transposed": (
        layer(
            "[conv] y = ConvTranspose <group = 4> (xd, wd, b)",
            sw=np.float32(0.01),
            zw=np.int8(0),
            **APART,
        ),
        "the zero points of its input differ between channels",
    ),
    "another axis": (
        layer(axis=0, inputs="float[4, 4, 6, 6] x"),
        "its input is not quantized per tensor",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_why_it_stays_in_float(tmp_path, case):
    proto, reason = REASONS[case]
    assert the_reason(proto, tmp_path) == reason
