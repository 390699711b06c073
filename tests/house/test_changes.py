"""Changes a stranger might want, each tried in its room: see the list in CONTRIBUTING.md."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bridge.export.convert import convert_qat_model
from bridge.export.fast.operators import CODE_OPERATORS
from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import RESHAPES, constant
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.lower.epilogue import write_epilogue
from bridge.export.lower.float32 import write_float_deploy
from bridge.export.lower.products import write_integer_product
from bridge.export.pipeline import convert_model
from bridge.export.plan.forms import FLOAT32, Choice, Form
from bridge.export.read.clamps import CLAMPS
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain
from bridge.export.running.runtime import run_model
from bridge.export.targets import table
from bridge.export.targets.target import Passes, Target
from tests.support.bits import same_bits
from tests.support.graphs.text import MATMUL, batch, model, save

CONV = """
    [qx] xq = QuantizeLinear (x, sx, zx)
    [dx] xd = DequantizeLinear (xq, sx, zx)
    [wd] wd = DequantizeLinear <axis: int = 0> (w0, sw, zw)
    [conv] c = Conv (xd, wd)
"""
NEXT = """
    [qv] vq = QuantizeLinear (v, sc, zc)
    [dv] vd = DequantizeLinear (vq, sc, zc)
    [w2] wd2 = DequantizeLinear <axis: int = 0> (w1, sw, zw)
    [next] y = Conv (vd, wd2)
"""
RNG = np.random.default_rng(0)
ARRAYS = {
    "sx": np.float32(0.05),
    "zx": np.int8(-7),
    "sc": np.float32(0.0421),
    "zc": np.int8(-11),
    "sw": np.array([0.011, 0.0031, 0.0072, 0.00199], np.float32),
    "zw": np.zeros(4, np.int8),
    "w0": RNG.integers(-90, 90, (4, 4, 1, 1)).astype(np.int8),
    "w1": RNG.integers(-90, 90, (4, 4, 1, 1)).astype(np.int8),
    "one": np.float32(0.3),
}


def network(between: str) -> onnx.ModelProto:
    """Two convolutions, with nodes from c to v between."""
    return model(
        CONV + between + NEXT,
        inputs="float[N, 4, H, L] x",
        outputs="float[N, 4, H2, L2] y",
        **ARRAYS,
    )


def converted(proto, folder, **options):
    """The operators of the deploy model, which has the bits of fake-quant."""
    done = convert_qat_model(save(proto, folder), folder / "net", **options)
    x = RNG.normal(0.0, 3.0, (2, 4, 3, 5)).astype(np.float32)
    fake, deploy = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy)
    assert len(np.unique(fake)) > 20
    return [node.op_type for node in onnx.load(done.deploy).graph.node]


def _stamp(graph: ir.Graph) -> None:
    graph.doc_string = "for the toy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy(Target):
    """A target whose layers run in float, and whose deploy models say what they are for."""

    name: ClassVar[str] = "toy"
    product_form: ClassVar[str] = "toy product"
    deploy_last: ClassVar[Passes] = (GraphPass(_stamp),)

    loud: bool = False

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        return Choice(Form("toy", write_float_deploy, FLOAT32), "it is a toy")

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        write_integer_product(builder, product)


@pytest.mark.parametrize("target", [Toy(loud=True), "toy"])
def test_a_target_is_a_class_and_a_row_of_the_table(tmp_path, monkeypatch, target):
    monkeypatch.setattr(table, "TARGETS", {**table.TARGETS, "toy": Toy})
    source = save(model(MATMUL), tmp_path)
    done = convert_qat_model(source, tmp_path / "net", target=target)
    assert done.target == "toy"
    assert [layer.form for layer in done.layers] == ["toy"]
    assert onnx.load(done.deploy).graph.doc_string == "for the toy"
    fake, deploy = (run_model(path, [batch()])["y"] for path in (done.fake_quant, done.deploy))
    assert same_bits(fake, deploy)


def test_a_target_has_its_own_options(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "TARGETS", {**table.TARGETS, "toy": Toy})
    assert table.find_target("toy", {"loud": True}) == Toy(loud=True)
    with pytest.raises(ValueError, match="loud is for target 'toy', got target 'ort'"):
        table.find_target("ort", {"loud": True})


def test_an_operator_on_codes_is_a_row_of_the_table(tmp_path, monkeypatch):
    """Sigmoid in mode "fast": ONNX Runtime has QLinearSigmoid, which evaluates all 256 codes."""
    body = network("v = Sigmoid (c)")
    options = {"mode": "fast", "data": [RNG.normal(0.0, 3.0, (2, 4, 3, 5)).astype(np.float32)]}
    assert "QLinearSigmoid" not in converted(body, tmp_path, **options)
    monkeypatch.setitem(CODE_OPERATORS, "Sigmoid", "QLinearSigmoid")
    assert "QLinearSigmoid" in converted(body, tmp_path, **options)


def test_an_activation_that_clamps_is_a_row_of_the_table(tmp_path, monkeypatch):
    """Max with a constant: then the convolution is a chain, which QLinearConv computes."""

    def limits(node: ir.Node) -> tuple[float, float]:
        return float(constant(node.inputs[1])), np.inf

    body = network("v = Max (c, one)")
    source = ir.from_proto(body)
    before, after = [], []
    convert_model(source, choose=lambda layer, chain: _seen(before, layer, chain))
    monkeypatch.setitem(CLAMPS, "Max", limits)
    convert_model(source, choose=lambda layer, chain: _seen(after, layer, chain))
    assert ("conv" in before, "conv" in after) == (False, True)
    converted(body, tmp_path)


def _seen(chains: list[str], layer: QuantizedLayer, chain: Chain | None) -> Form:
    if chain is not None:
        chains.append(layer.name)
    return Form("float", write_float_deploy, FLOAT32)


def test_an_operator_that_moves_values_is_a_row_of_the_table(tmp_path, monkeypatch):
    """Tile by ones: a weight that passes through it is a constant once it is known."""
    body = MATMUL.replace("MatMul (xd, wd)", "MatMul (xd, wt)").replace(
        "[fc]", "wt = Tile (wd, repeats) [fc]"
    )
    proto = model(body, repeats=np.array([1, 1], np.int64))
    layers, floats = convert_model(ir.from_proto(proto))[2:4]
    assert ([one.name for one in layers], len(floats)) == ([], 1)

    def tile(node: ir.Node):
        repeats = constant(node.inputs[1])
        return None if repeats is None else lambda array: np.tile(array, repeats)

    monkeypatch.setitem(RESHAPES, "Tile", tile)
    layers, floats = convert_model(ir.from_proto(proto))[2:4]
    assert ([one.name for one in layers], len(floats)) == (["fc"], 0)


def test_a_form_of_a_layer_is_a_function(tmp_path):
    """A matrix product of int32, which ONNX Runtime computes with a kernel that is no layer's."""

    def write_int32(builder: Builder, layer: QuantizedLayer) -> None:
        codes = builder.op("Cast", layer.x_q, to=ir.DataType.INT32)
        centered = builder.op("Sub", codes, np.int32(layer.zero_point_x))
        write_epilogue(
            builder, layer, builder.op("MatMul", centered, layer.weight.astype(np.int32))
        )

    form = Form("MatMul of int32", write_int32)
    made = convert_model(ir.from_proto(model(MATMUL)), choose=lambda *_: form)
    assert [layer.form for layer in made.layers] == [form.name]
    for name, written in (("fake", made.fake), ("deploy", made.deploy)):
        ir.save(written, tmp_path / f"{name}.onnx")
    fake, deploy = (run_model(tmp_path / f"{n}.onnx", [batch()])["y"] for n in ("fake", "deploy"))
    assert same_bits(fake, deploy)
