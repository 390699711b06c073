"""int8 weights (vnni=True): which layers get them, and where processors sum them wrongly."""

import numpy as np
import onnx
import pytest

from bridge.export.running import int8_probe
from tests.support.bits import same_bits
from tests.support.conversions import convert_chain as convert
from tests.support.graphs.chains import ARRAYS, FIRST, KERNEL, SECOND, chained, picture
from tests.support.graphs.text import MATMUL, model
from tests.support.runtime import LEVELS, run_at, session_at

REASON = "uint8 weights: a channel has two of -128, whose int8 products may overflow on ARM64"


def lowest(count, *, channels=(1,), shape=KERNEL.shape):
    """Weights of which so many are -128 in each of some channels, and no others."""
    rows = np.random.default_rng(0).integers(-60, 60, (shape[0], int(np.prod(shape[1:]))))
    rows[list(channels), :count] = -128
    return rows.reshape(shape).astype(np.int8)


def dense(count):
    return chained("c = Relu (f)", w=lowest(count))


def depthwise(count):
    arrays = ARRAYS | {"w": lowest(count, shape=(4, 1, 3, 3))}
    given = {"inputs": "float[N, 4, H, L] x", "outputs": "float[N, 2, H2, L2] y"}
    first = FIRST.replace("Conv (xd", "Conv <group = 4> (xd")
    return model(first + "c = Relu (f)" + SECOND, **given, **arrays)


def matrix_product(count):
    weight = np.ascontiguousarray(lowest(count, shape=(64, 64)).T)
    arrays = {"w": weight, "sw": np.float32(0.01), "zw": np.int8(0), "zx": np.int8(-128)}
    return model(MATMUL, inputs="float[N, 64] x", outputs="float[N, 64] y", **arrays)


def dtype_of_weight(done):
    graph = onnx.load(done.deploy).graph
    (node,) = (n for n in graph.node if n.op_type in ("QLinearConv", "MatMulInteger"))
    name = node.input[3 if node.op_type == "QLinearConv" else 1]
    stored = [tensor.data_type for tensor in graph.initializer if tensor.name == name]
    # uint8 weights are int8 in the file, and counted higher when it is loaded.
    return onnx.TensorProto.DataType.Name(stored[0]) if stored else "UINT8"


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [dense, depthwise, matrix_product])
def test_a_channel_with_two_of_the_lowest_makes_its_layer_uint8(tmp_path, make, count):
    done = convert(make(count), tmp_path, vnni=True)
    assert dtype_of_weight(done) == ("UINT8" if count > 1 else "INT8")
    assert [REASON in layer.reason for layer in done.layers] == [
        count > 1 and layer is done.layers[0] for layer in done.layers
    ]


def test_one_in_every_channel_stays_int8(tmp_path):
    weight = lowest(1, channels=range(4))
    done = convert(chained("c = Relu (f)", w=weight), tmp_path, vnni=True)
    assert dtype_of_weight(done) == "INT8"


def test_without_the_option_no_reason_speaks_of_it(tmp_path):
    assert not any("-128" in layer.reason for layer in convert(dense(3), tmp_path).layers)


def test_onnx_runtime_can_be_asked_for_precision(tmp_path):
    """session.x64quantprecision refuses a zero point that two weights share."""
    body = SECOND.replace("y = Conv", "e = Conv") + (
        "eq = QuantizeLinear (e, sc, zc) ed = DequantizeLinear (eq, sc, zc) "
        "t = Flatten (ed) tq = QuantizeLinear (t, sc, zc) td = DequantizeLinear (tq, sc, zc) "
        "md = DequantizeLinear (m, so, zc0) [third] y = MatMul (td, md)"
    )
    large = np.random.default_rng(0).integers(90, 127, KERNEL.shape).astype(np.int8)
    more = {
        "m": np.random.default_rng(1).integers(90, 127, (60, 8)).astype(np.int8),
        "so": np.float32(0.01),
        "zc0": np.int8(0),
    }
    proto = chained("c = Relu (f)", second=body, outputs="float[N, 8] y", w=large, **more)
    done = convert(proto, tmp_path, vnni=True)
    assert [layer.form for layer in done.layers] == ["QLinearConv"] * 2 + ["MatMulInteger"]
    x = picture() * np.float32(9.0)
    expected = run_at(done.fake_quant, x, "ENABLE_ALL")
    for level in LEVELS:
        session = session_at(done.deploy, level, x64quantprecision="1")
        (found,) = session.run(None, {"x": x})
        if level in ("ENABLE_EXTENDED", "ENABLE_ALL"):  # where weights are rewritten
            assert same_bits(found, expected), level


def in_pairs(x, weight, *, shift, wraps):
    """Sums of products of which two at a time have 16 bits: these wrap, or saturate."""
    products = (x.astype(np.int64) - shift) * weight
    pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1)
    pairs = pairs.astype(np.int16) if wraps else pairs.clip(-(1 << 15), (1 << 15) - 1)
    return pairs.astype(np.int64).sum(-1) + shift * weight.astype(np.int64).sum(-1)


KERNELS = {
    "32 bits": lambda x, w: (x.astype(np.int64) * w).sum(-1),
    "x86 without VNNI": lambda x, w: in_pairs(x, w, shift=0, wraps=False),
    "ARM64 without dot product": lambda x, w: in_pairs(x, w, shift=128, wraps=True),
}


@pytest.mark.parametrize("depthwise_only", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_probe_meets_what_16_bits_cannot_hold(monkeypatch, kernel, depthwise_only):
    """It runs on kernels written in NumPy, in the place of ONNX Runtime's."""

    def run_node(node, x, arrays, _):
        weight = arrays["w"]
        if node.op_type == "MatMulInteger":
            dense_kernel = KERNELS["32 bits" if depthwise_only else kernel]
            return dense_kernel(x[:, None], weight.T[None]).astype(np.int32)
        rows = np.pad(weight.reshape(len(weight), -1), ((0, 0), (0, 1)))  # ten taps
        windows = np.repeat(x[:, :, 0, :1], rows.shape[1], axis=-1)
        sums = KERNELS[kernel](windows, rows[None])
        codes = np.clip(np.rint(sums * arrays["sw"]) + int(arrays["zy"]), 0, 255)
        return np.broadcast_to(codes.astype(np.uint8)[..., None, None], (*codes.shape, 6, 6))

    monkeypatch.setattr(int8_probe, "_run", run_node)
    assert int8_probe.sums_int8_exactly.__wrapped__() == (kernel == "32 bits")
