"""normalize.data_movement: layers whose input was quantized before data movement."""

import numpy as np
import onnx
import pytest

from bridge import convert_qat_model
from bridge.export.normalize.model import read_model
from tests.support.conversions import converted_right
from tests.support.graphs.text import SX, ZX, X, model, save, the_reason

CONV = "wd = DequantizeLinear (w, sw, zw) [conv] y = Conv (m, wd)"
W4 = np.random.default_rng(0).integers(-99, 99, (4, 4, 1, 1)).astype(np.int8)
FOUR = {"w": W4, "sw": np.float32(0.01), "zw": np.int8(0)}
SHAPES = {"inputs": "float[2, 4, 6, 6] x", "outputs": "float[A, B, C, D] y"}

MOVES = {
    "Transpose": ("m = Transpose <perm = [0, 1, 3, 2]> (xd)", {}),
    "MaxPool": (
        "m = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (xd)", {}
    ),
    "MaxPool with ceil_mode": (
        "m = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (xd)", {}
    ),
    "GlobalMaxPool": ("m = GlobalMaxPool (xd)", {}),
    "Reshape": ("m = Reshape (xd, s)", {"s": np.int64([4, 4, -1, 3])}),
    "Reshape to a computed shape": ("s = Shape (x) m = Reshape (xd, s)", {}),
    "Squeeze and Unsqueeze": (
        "u = Unsqueeze (xd, s) m = Squeeze (u, s)", {"s": np.int64([2])}
    ),
    "Flatten and Reshape": (
        "f = Flatten <axis = 2> (xd) m = Reshape (f, s)", {"s": np.int64([2, 4, 4, 9])}
    ),
    "Slice": (
        "m = Slice (xd, s, e, a)", {"s": np.int64([1]), "e": np.int64([5]), "a": np.int64([3])}
    ),
    "Split": ("m, n = Split <axis = 2> (xd)", {}),
    "Concat": (
        "vq = QuantizeLinear (v, sx, zx) vd = DequantizeLinear (vq, sx, zx) "
        "m = Concat <axis = 3> (xd, vd)",
        {"v": np.random.default_rng(1).normal(0, 3, (2, 4, 6, 2)).astype(np.float32)},
    ),
    "Concat of parts of one value": (
        "a, b = Split <axis = 2> (xd) m = Concat <axis = 2> (b, a, b)", {}
    ),
    "Gather": ("m = Gather <axis = 2> (xd, i)", {"i": np.int64([5, 0, -1])}),
    "Pad with zeros": ("m = Pad (xd, p)", {"p": np.int64([0, 0, 1, 0, 0, 0, 2, 1])}),
    "Pad with a value of the codes": (
        "m = Pad (xd, p, c)", {"p": np.int64([0, 0, 1, 0, 0, 0, 2, 1]), "c": np.float32(3) * SX}
    ),
    "Pad by reflection": (
        "m = Pad <mode = \"reflect\"> (xd, p)", {"p": np.int64([0, 0, 1, 0, 0, 0, 2, 1])}
    ),
    "Resize": (
        "m = Resize <mode = \"nearest\"> (xd, , f)", {"f": np.float32([1, 1, 2, 1.5])}
    ),
    "Dropout": ("m = Dropout (xd)", {}),
    "Identity": ("m = Identity (xd)", {}),
    "Relu": ("m = Relu (xd)", {}),
    "DepthToSpace": (
        "d = SpaceToDepth <blocksize = 2> (xd) m = DepthToSpace <blocksize = 2> (d)", {}
    ),
    "Tile and Expand": (
        "t = Tile (xd, r) m = Expand (t, e)", {"r": np.int64([1, 1, 1, 2]), "e": np.int64([1])}
    ),
    "all the way": (
        "r = Relu (xd) p = MaxPool <kernel_shape = [2, 2]> (r) "
        "m = Transpose <perm = [0, 1, 3, 2]> (p)",
        {},
    ),
}  # fmt: skip


def moved(move: str, x: str = X, **arrays: object) -> onnx.ModelProto:
    proto = model(x + move + CONV, **(FOUR | SHAPES | arrays))
    # Whether a window can contain only padding depends on the input's size.
    proto.graph.value_info.add(name="xd").CopyFrom(proto.graph.input[0])
    proto.graph.value_info[0].name = "xd"
    return proto


def batch() -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 3.0, (2, 4, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("name", MOVES)
def test_the_layer_is_quantized(tmp_path, name):
    move, arrays = MOVES[name]
    done = converted_right(moved(move, **arrays), tmp_path, batch(), error=1e-4)
    assert [layer.name for layer in done.layers] == ["conv"]
    assert not done.left_in_float


@pytest.mark.parametrize("name", ["MaxPool", "Slice", "Concat", "Relu"])
@pytest.mark.parametrize("target", ["qdq", "ascend"])
def test_other_targets(tmp_path, target, name):
    move, arrays = MOVES[name]
    path = save(moved(move, **arrays), tmp_path)
    done = convert_qat_model(path, tmp_path / "net", target=target)
    assert not done.left_in_float


def test_what_reads_the_first_pair_too_keeps_it(tmp_path):
    move = "m = MaxPool <kernel_shape = [2, 2]> (xd) z = Neg (xd) v = Neg (m)"
    outputs = "float[A, B, C, D] y, float[A, B, C, D] z, float[A, B, C, D] v"
    done = converted_right(moved(move, outputs=outputs), tmp_path, batch(), error=1e-4)
    assert [layer.name for layer in done.layers] == ["conv"]


@pytest.mark.parametrize("kind", [np.uint8(130), np.int16(-300), np.uint16(33_000)])
def test_other_codes(tmp_path, kind):
    proto = moved(MOVES["Slice"][0], opset=21, zx=kind, **MOVES["Slice"][1])
    done = converted_right(proto, tmp_path, batch(), error=1e-4)
    assert not done.left_in_float


def test_a_chain_ends_after_the_movement(tmp_path):
    """Convolution, Clip and pool become one QLinearConv and operators that move its codes."""
    first = (
        X + "vd = DequantizeLinear (v, sw, zw) c = Conv (xd, vd) r = Relu (c) "
        "cq = QuantizeLinear (r, sc, zx) cd = DequantizeLinear (cq, sc, zx) "
    )
    move = "m = MaxPool <kernel_shape = [2, 2]> (cd)"
    weight = np.random.default_rng(3).integers(-99, 99, (4, 4, 3, 3)).astype(np.int8)
    proto = moved(move, x=first, v=weight, sc=np.float32(0.2))
    done = converted_right(proto, tmp_path, batch(), error=1e-2)
    assert done.layers[0].unchained is None
    graph = read_model(done.source).graph
    operators = [node.op_type for node in graph if node.op_type != "DequantizeLinear"]
    assert operators == ["QuantizeLinear", "Conv", "Relu", "MaxPool", "QuantizeLinear", "Conv"]


OTHERS = {
    "Concat of two scales": (
        "vq = QuantizeLinear (x, sv, zx) vd = DequantizeLinear (vq, sv, zx) "
        "m = Concat <axis = 3> (xd, vd)",
        {"sv": np.float32(0.07)},
    ),
    "Concat of two types": (
        "vq = QuantizeLinear (x, sx, zv) vd = DequantizeLinear (vq, sx, zv) "
        "m = Concat <axis = 3> (xd, vd)",
        {"zx": np.int8(7), "zv": np.uint8(7)},
    ),
    "Pad with a value between codes": (
        "m = Pad (xd, p, c)",
        {"p": np.int64([0, 0, 1, 0, 0, 0, 2, 1]), "c": np.float32(0.06)},
    ),
    "linear Resize": ('m = Resize <mode = "linear"> (xd, , f)', {"f": np.float32([1, 1, 2, 2])}),
    "AveragePool": ("m = AveragePool <kernel_shape = [2, 2]> (xd)", {}),
    "MaxPool that may see only padding": (
        "m = MaxPool <kernel_shape = [2, 1], dilations = [3, 1], pads = [1, 0, 1, 0]> (xd)",
        {},
    ),
    "MaxPool whose last window starts after the input": (
        "m = MaxPool <kernel_shape = [2, 2], strides = [4, 4], pads = [1, 1, 1, 1], ceil_mode = 1> "
        "(xd)",
        {"inputs": "float[2, 4, 7, 7] x"},
    ),
    "a scale with which codes do not come back": (
        "m = Identity (xd)",
        {"sx": np.float32(3e37)},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_computes_is_no_movement(tmp_path, name):
    move, arrays = OTHERS[name]
    assert the_reason(moved(move, **arrays), tmp_path) == "its input is not dequantized"


def test_a_product_of_moved_activations(tmp_path):
    body = X + "t = Transpose <perm = [0, 1, 3, 2]> (xd) r = Relu (xd) [mm] y = MatMul (r, t)"
    proto = model(body, zx=ZX, **SHAPES)
    done = converted_right(proto, tmp_path, batch(), error=1e-3)
    assert [layer.form for layer in done.layers] == ["MatMulInteger"]
