"""Every operator that multiplies counts in explain's totals, or they are not known."""

import itertools
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from bridge import calibrate, convert_qat_model, explain, prepare_qat
from bridge.export.result.multiplications import in_integers, multiplies, multiply_accumulates
from tests.support.exporters import export
from tests.support.graphs.text import MATMUL, model, save


def node_of(op, shapes, *, domain="", **attributes):
    """A node and the sizes of its inputs, None for an input left out, and of its output y."""
    names = [None if shape is None else f"x{i}" for i, shape in enumerate(shapes[:-1])]
    inputs = [None if name is None else ir.Value(name=name) for name in names]
    node = ir.node(op, inputs, attributes, domain=domain)
    node.outputs[0].name = "y"
    sizes = {name: shape for name, shape in zip(names, shapes, strict=False) if name}
    return node, sizes | {"y": shapes[-1]}


def counted(op, *shapes, **more):
    node, sizes = node_of(op, shapes, **more)
    assert multiplies(node)
    return multiply_accumulates(node, sizes)


def looped(equation, *shapes):
    """Multiplications of loops over all labels of two operands."""
    terms = equation.split("->")[0].split(",")
    lengths = {
        label: length
        for term, shape in zip(terms, shapes, strict=True)
        for label, length in zip(term, shape, strict=True)
    }
    return sum(1 for _ in itertools.product(*map(range, lengths.values())))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)]),
        ("bsd,ndk->bnsk", [(2, 3, 4), (5, 4, 2)]),
        ("ij,kj", [(2, 3), (5, 3)]),
        ("i,i->", [(7,), (7,)]),
        ("i,j->ij", [(7,), (3,)]),
    ],
)
def test_einsum_of_two(equation, shapes):
    assert counted("Einsum", *shapes, (), equation=equation) == looped(equation, *shapes)


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("...ij,...jk->...ik", [(4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        ("...ij,jk->...ik", [(6, 4, 2, 3), (3, 5)], 6 * 4 * 2 * 3 * 5),
        ("b...d, d ... -> b", [(2, 3, 4), (4, 3)], 2 * 3 * 4),
        ("ij,jk,kl->il", [(2, 3), (3, 5), (5, 7)], 2 * 3 * 5 + 2 * 5 * 7),
        ("ij->ji", [(2, 3)], 0),
        ("ii->i", [(3, 3)], 0),
        ("bi,bj->bij", [(1, 2), (4, 3)], 4 * 2 * 3),
    ],
)
def test_einsum(equation, shapes, expected):
    assert counted("Einsum", *shapes, (), equation=equation) == expected


MICROSOFT = {"domain": "com.microsoft"}
GROUPED = {"q_num_heads": 4, "kv_num_heads": 2}


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "expected"),
    [
        ("LSTM", [(7, 2, 5), (1, 16, 5), (1, 16, 4), ()], {}, 7 * 2 * 16 * (5 + 4)),
        ("GRU", [(7, 2, 5), (2, 12, 5), (2, 12, 4), ()], {}, 7 * 2 * 2 * 12 * (5 + 4)),
        ("RNN", [(2, 7, 5), (1, 4, 5), (1, 4, 4), ()], {"layout": 1}, 14 * 4 * (5 + 4)),
        ("ConvInteger", [(1, 3, 9, 9), (4, 3, 3, 3), (1, 4, 7, 7)], {}, 49 * 4 * 27),
        ("QLinearConv", [(1, 3, 9), (), (), (4, 3, 3), (1, 4, 7)], {}, 7 * 4 * 9),
        ("DeformConv", [(1, 3, 9, 9), (4, 3, 3, 3), (), (2, 4, 7, 7)], {}, 2 * 49 * 4 * 27),
        ("MatMulInteger", [(2, 3, 5), (5, 7), (2, 3, 7)], {}, 2 * 3 * 5 * 7),
        ("QLinearMatMul", [(3, 5), (), (), (5, 7), (3, 7)], {}, 3 * 5 * 7),
        ("FusedMatMul", [(5, 3), (5, 7), (3, 7)], {"transA": 1, **MICROSOFT}, 3 * 5 * 7),
        ("MatMulNBits", [(2, 3, 32), (4, 1, 16), (2, 3, 4)], {"K": 32, "N": 4, **MICROSOFT}, 768),
        ("Attention", [(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6), ()], {}, 2 * 4 * 5 * 7 * 14),
        ("Attention", [(2, 5, 32), (2, 7, 16), (2, 7, 12), ()], GROUPED, 2 * 4 * 5 * 7 * (8 + 6)),
        (
            "Attention",
            [(1, 1, 2, 8), (1, 1, 2, 8), (1, 1, 2, 8), None, (1, 1, 3, 8), ()],
            {},
            2 * 5 * 16,
        ),
        ("Attention", [(2, 5, 8), (8, 24), ()], {"num_heads": 2, **MICROSOFT}, 1920 + 2 * 2 * 200),
        (
            "MultiHeadAttention",
            [(2, 5, 8), (2, 7, 8), (2, 7, 8), ()],
            {"num_heads": 2, **MICROSOFT},
            2 * 2 * 5 * 7 * 8,
        ),
    ],
)
def test_counts(op, shapes, attributes, expected):
    assert counted(op, *shapes, **attributes) == expected


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("GroupQueryAttention", "com.microsoft"),
        ("MoE", "com.microsoft"),
        ("STFT", ""),
        ("DynamicQuantizeLSTM", "com.microsoft"),
        ("LinearRegressor", "ai.onnx.ml"),
        ("Anything", "my.own"),
    ],
)
def test_not_known(op, domain):
    assert counted(op, (2, 3), (3, 4), (2, 4), domain=domain) is None


@pytest.mark.parametrize("op", ["LSTM", "Einsum", "ConvInteger", "MatMulInteger", "Attention"])
def test_open_sizes(op):
    attributes = {"equation": "ij,jk->ik"} if op == "Einsum" else {}
    node, _ = node_of(op, [(2, 3), (3, 4), (2, 4), ()], **attributes)
    assert multiply_accumulates(node, {}) is None


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        ("Add", ""),
        ("Mul", ""),
        ("Softmax", ""),
        ("Gelu", "com.microsoft"),
        ("Scaler", "ai.onnx.ml"),
    ],
)
def test_element_by_element(op, domain):
    assert not multiplies(ir.node(op, [], domain=domain))


def test_integers_of_the_file():
    for op in ("ConvInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"):
        assert in_integers(ir.node(op, []))
    assert not in_integers(ir.node("MatMulNBits", []))


def test_an_einsum_is_no_int8(tmp_path):
    """Five hundredths of the work are in int8, not all of it."""
    body = MATMUL + '[e] z = Einsum <equation = "ij,jk->ik"> (y, f)'
    proto = model(body, inputs="float[4, 3] x", outputs="float[4, 57] z", f=np.ones((2, 57), "f4"))
    found = explain(convert_qat_model(save(proto, tmp_path), tmp_path / "net"))
    assert [(row.op, row.macs, row.arithmetic) for row in found.layers] == [
        ("MatMul", 4 * 6, "int8"),
        ("Einsum", 4 * 2 * 57, "float32"),
    ]
    assert found.int8_share == 0.05
    assert found.layers[1].name == "e"
    assert found.layers[1].form == "float"


def test_an_operator_of_another_domain_is_not_known(tmp_path):
    proto = model(MATMUL.replace("y =", "m =") + "[own] y = local.own (m)", inputs="float[4, 3] x")
    proto.opset_import.append(onnx.helper.make_opsetid("local", 1))
    found = explain(convert_qat_model(save(proto, tmp_path), tmp_path / "net"))
    assert [row.macs for row in found.layers] == [24, None]
    assert found.macs is found.int8_share is None
    assert "not known" in str(found)


def test_a_product_in_a_loop_is_not_known(tmp_path):
    body = (
        MATMUL.replace("y =", "m =") + "y = Loop (n, , m) <body = b(int64 i, bool c, float[A, B] s)"
        " => (bool d, float[A, B] t) { d = Identity (c) t = Einsum <equation='ij,jk->ik'> (s, f) }>"
    ).replace("'", '"')
    proto = model(body, inputs="float[4, 3] x", n=np.int64(9), f=np.ones((2, 2), np.float32))
    found = explain(convert_qat_model(save(proto, tmp_path), tmp_path / "net"))
    assert [(row.op, row.macs) for row in found.layers] == [("MatMul", 24), ("Einsum", None)]
    assert found.int8_share is None


class Shuffled(nn.Module):
    """Sizes that the TorchScript exporter computes in the graph: of padding, slices, reshapes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        x = self.a(x)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        x = nn.functional.interpolate(x, scale_factor=2)
        x = nn.functional.pad(x, (0, x.shape[2] % 3, 0, 1))
        return self.b(x)[:, :, : x.shape[2] // 2]


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        n, h, _, c = x.shape
        more = (4 - h % 4) % 4
        x = nn.functional.pad(x, (0, 0, 0, more, 0, more))
        side = x.shape[1] // 4
        x = x.view(n, side, 4, side, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        y = self.a(x)
        return (y @ y.transpose(1, 2)).reshape(n, -1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:Exporting a model to", "ignore:prepare_qat"
)
@pytest.mark.parametrize(
    ("net", "shape", "expected", "quantized"),
    [
        (Shuffled(), (1, 3, 12, 12), 8 * 27 * 100 + 8 * 72 * 19 * 20, ("a", "b")),
        (Windows(), (1, 6, 6, 8), 4 * 16 * 8 * 8 + 4 * 16 * 16 * 8, ("a",)),
        (
            Recurrent(),
            (2, 7, 8),
            14 * (2 * 24 * (8 + 6) + 2 * 24 * (12 + 6) + 12 * 3),
            ("fc",),
        ),
    ],
    ids=["shuffle", "windows", "lstm"],
)
def test_static_models_of_the_torchscript_exporter(tmp_path, net, shape, expected, quantized):
    prepared, x = prepare_qat(net), torch.randn(shape)
    calibrate(prepared, [x])
    inter = export(prepared.eval(), (x,), tmp_path / "m.onnx", "torchscript")
    found = explain(convert_qat_model(inter, tmp_path / "net"))
    assert found.macs == expected
    assert {row.name for row in found.layers if row.form != "float"} == set(quantized)
    assert math.isclose(
        found.int8_share, sum(r.macs for r in found.layers if r.arithmetic == "int8") / expected
    )
