"""Chains: what becomes one QLinearConv, what does not, and its bits against NumPy integers."""

import numpy as np
import onnx
import pytest

from bridge import sums_int8_exactly
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.conversions import convert_chain as convert
from tests.support.graphs.chains import (
    ARRAYS,
    BETWEEN,
    KERNEL,
    LAST,
    SC,
    SECOND,
    SW,
    ZC,
    chained,
    forms,
    long_sums,
    picture,
    sums,
)
from tests.support.graphs.text import MATMUL, SX, codes, model


@pytest.mark.parametrize("name", BETWEEN)
def test_nodes_and_bits(tmp_path, name):
    between, function, nodes = BETWEEN[name]
    done = convert(chained(between), tmp_path)
    assert forms(done) == {"first": "QLinearConv", "second": "ConvInteger"}
    proto = onnx.load(done.deploy)
    onnx.checker.check_model(proto, full_check=True)
    between_convs = [n.op_type for n in proto.graph.node if n.op_type not in ("Cast", "Add", "Mul")]
    moves = [op for op in between_convs[2:] if op != "Identity"]
    assert between_convs[:2] == ["QuantizeLinear", "QLinearConv"]
    assert moves == [*nodes, "ConvInteger"]

    x = picture()
    (first, _) = done.layers
    rescale = (SX * SW).astype(np.float32) if first.adjusted is None else first.adjusted.adjusted
    inner = function(sums(x).astype(np.float32) * rescale.reshape(-1, 1, 1))
    second = np.einsum("nchw,oc->nohw", codes(inner, SC, ZC), LAST[:, :, 0, 0].astype(np.int64))
    expected = second.astype(np.float32) * (SC * ARRAYS["sv"]).reshape(-1, 1, 1)
    for path in (done.fake_quant, done.deploy):
        assert same_bits(run_model(path, [x])["y"], expected.astype(np.float32)), path


def test_a_relu_at_the_lowest_code_needs_no_clip(tmp_path):
    done = convert(chained("c = Relu (f)", zc=np.int8(-128)), tmp_path)
    assert forms(done)["first"] == "QLinearConv"
    assert "Clip" not in [node.op_type for node in onnx.load(done.deploy).graph.node]


def test_rescales_are_adjusted_only_as_far_as_allowed(tmp_path):
    """Sums this long have no multiplier for every rescale; without, another form is taken."""
    wide = long_sums()
    held = convert(chained("c = Relu (f)", **wide), tmp_path, max_ulps=0)
    assert forms(held)["first"] == "ConvInteger"
    assert held.layers[0].adjusted is None
    missed = held.layers[0].proof
    assert missed.unmatched > 0 == missed.adjusted
    assert missed.natural + missed.unmatched == 64
    assert held.layers[0].unchained == (
        f"{missed.unmatched} of 64 channels have no multiplier within 0 ulps"
    )
    done = convert(chained("c = Relu (f)", **wide), tmp_path)
    assert forms(done)["first"] == "QLinearConv"
    change = done.layers[0].adjusted
    assert 0 < np.abs(change.ulps).max() <= 64
    steps = np.abs(change.adjusted.view(np.int32).astype(np.int64) - change.natural.view(np.int32))
    assert np.array_equal(steps, np.abs(change.ulps))
    proof = done.layers[0].proof
    assert proof.adjusted == np.count_nonzero(change.ulps) == missed.unmatched
    assert (proof.natural, proof.unmatched) == (missed.natural, 0)
    assert proof.farthest == np.abs(change.ulps).max()
    assert done.layers[0].unchained is None
    assert same_bits(change.natural, (SX * wide["sw"]).astype(np.float32))
    x = np.random.default_rng(3).normal(0.0, 4.0, (1, 64, 5, 5)).astype(np.float32)
    results = [run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy)]
    assert same_bits(*results)


def test_a_weight_of_two_layers_is_not_adjusted(tmp_path):
    """A torch layer that is called twice has one rescale for both places."""
    again = "[again] g = Conv (xd, wd, b) c = Relu (f)"
    done = convert(chained(again, outputs=TWO + "g", **long_sums()), tmp_path)
    assert [layer.adjusted for layer in done.layers] == [None] * 3
    (first, _, _) = done.layers
    assert first.unchained == (
        f"{first.proof.unmatched} of 64 channels have no multiplier; "
        "none is adjusted for a shared weight"
    )


TWO = "float[N, 2, H2, L2] y, float[N, 4, H1, L1] "
OTHER = " eq = QuantizeLinear (c, se, zc) e = DequantizeLinear (eq, se, zc)"


UNCHAINED = {
    "not a limit": (chained("[act] c = LeakyRelu (f)"), "LeakyRelu 'act' computes in float"),
    "a mean": (
        chained("[pool] c = AveragePool <kernel_shape = [2, 2]> (f)"),
        "AveragePool 'pool' computes in float",
    ),
    "another reader": (
        chained("c = Relu (f) [other] e = Abs (c)", outputs=TWO + "e"),
        "Abs 'other' and others read 'c'",
    ),
    "an output": (chained("c = Relu (f)", outputs=TWO + "c"), "'c' is an output of the model"),
    "no reader": (
        chained("[side] c = Conv (x, k)", k=KERNEL.astype(np.float32)),
        "nothing reads 'f'",
    ),
    "another scale": (
        chained("c = Relu (f) [other]" + OTHER, outputs=TWO + "e", se=np.float32(0.5)),
        "QuantizeLinear 'other' and QuantizeLinear 'quantize_c' have different scales or zero "
        "points",
    ),
    "a scale for each channel": (
        chained(
            "c = Relu (f)",
            second=SECOND.replace("QuantizeLinear (c,", "QuantizeLinear <axis: int = 1> (c,"),
            sc=np.full(4, SC),
            zc=np.full(4, ZC),
        ),
        "the zero point of QuantizeLinear 'quantize_c' is not a single uint8 constant",
    ),
    "codes are an output": (
        chained("c = Relu (f)", outputs="float[N, 2, H2, L2] y, int8[N, 4, H1, L1] cq"),
        "the zero point of QuantizeLinear 'quantize_c' is not a single uint8 constant",
    ),
    "unsigned codes are an output": (
        chained(
            "c = Relu (f)",
            outputs="float[N, 2, H2, L2] y, uint8[N, 4, H1, L1] cq",
            zc=np.uint8(117),
        ),
        "the codes of QuantizeLinear 'quantize_c' are an output of the model",
    ),
    "places of the maxima": (
        chained(
            "[pool] c, i = MaxPool <kernel_shape = [2, 2]> (f)",
            outputs=TWO.replace("float[N, 4", "int64[N, 4") + "i",
        ),
        "MaxPool 'pool' has a second output",
    ),
    "a computed limit": (
        chained("m = Abs (lo) [limit] c = Clip (f, m, hi)"),
        "a limit of Clip 'limit' is not a constant float32 number",
    ),
    "crossed limits": (
        chained("[limit] c = Clip (f, hi, lo)"),
        "the minimum of Clip 'limit' is above its maximum",
    ),
    "16 bits": (
        chained("c = Relu (f)", zx=np.int16(-7), opset=21),
        "its input is int16, not uint8",
    ),
    "int8 codes": (
        chained("c = Relu (f)", outputs="float[N, 2, H2, L2] y, int8[N, 3, H, L] xq"),
        "its input is int8, not uint8",
    ),
}


@pytest.mark.parametrize("name", UNCHAINED)
def test_what_is_not_chained(tmp_path, name):
    proto, reason = UNCHAINED[name]
    done = convert(proto, tmp_path)
    assert forms(done)["first"] == "ConvInteger"
    assert done.layers[0].unchained == reason
    assert done.layers[0].proof is None
    x = picture()
    fake, deploy = (run_model(path, [x]) for path in (done.fake_quant, done.deploy))
    for name, value in fake.items():
        assert np.array_equal(value, deploy[name]), name


def test_two_quantizers_of_one_scale_read_one_value(tmp_path):
    two = "c = Relu (f) eq = QuantizeLinear (c, sc, zc) e = DequantizeLinear (eq, sc, zc)"
    done = convert(chained(two, outputs=TWO + "e"), tmp_path)
    assert forms(done)["first"] == "QLinearConv"
    x = picture()
    fake, deploy = (run_model(path, [x]) for path in (done.fake_quant, done.deploy))
    assert same_bits(fake["e"], deploy["e"])
    assert same_bits(fake["y"], deploy["y"])


@pytest.mark.parametrize("largest", [60, 127])
def test_int8_weights_are_exact_where_the_processor_is(tmp_path, largest):
    """Two products of 255 and up to 64 fit the 16 bits that older processors sum them in."""
    rng = np.random.default_rng(4)
    wide = {
        "inputs": "float[N, 64, H, L] x",
        "w": rng.integers(largest // 2, largest + 1, (64, 64, 2, 2)).astype(np.int8),
        "sw": np.full(64, 0.001, np.float32),
        "zw": np.zeros(64, np.int8),
        "b": np.zeros(64, np.float32),
        "v": rng.integers(largest // 2, largest + 1, (64, 64, 1, 1)).astype(np.int8),
        "sv": np.full(64, 0.001, np.float32),
        "zv": np.zeros(64, np.int8),
        "sc": np.float32(4.0),
        "outputs": "float[N, 64, H2, L2] y",
    }
    done = convert(chained("c = Relu (f)", **wide), tmp_path, vnni=True)
    assert forms(done) == {"first": "QLinearConv", "second": "ConvInteger"}
    (node,) = (n for n in onnx.load(done.deploy).graph.node if n.op_type == "QLinearConv")
    (weight,) = (t for t in onnx.load(done.deploy).graph.initializer if t.name == node.input[3])
    assert weight.data_type == onnx.TensorProto.INT8
    x = np.full((1, 64, 6, 6), 1e3, np.float32)
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy) == (largest == 60 or sums_int8_exactly())


@pytest.mark.parametrize("largest", [60, 127])
def test_int8_weights_of_a_matrix_product(tmp_path, largest):
    weight = np.full((64, 64), largest, np.int8)
    arrays = {"w": weight, "sw": np.float32(0.01), "zw": np.int8(0), "zx": np.int8(-128)}
    sizes = {"inputs": "float[N, 64] x", "outputs": "float[N, 64] y"}
    done = convert(model(MATMUL, **sizes, **arrays), tmp_path, vnni=True)
    x = np.full((3, 64), 1e3, np.float32)
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy) == (largest == 60 or sums_int8_exactly())
