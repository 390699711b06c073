"""Operators on codes in ONNX Runtime itself, at every level: the codes that qatfunc proves."""

import numpy as np
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from property_tests.strategies.codes import (
    FUNCTION,
    SPEC,
    Operands,
    arguments,
    dequantized,
    output_on,
    products,
    qparams_of,
    results,
    sums,
    value_grids,
)
from property_tests.strategies.examples import share_of_examples
from qatfunc import codes
from qatfunc.codes import Activation, ValueGrid
from tests.support.requantization import add_kernels, mul_kernels
from tests.support.requantization.add_kernels import every_pair
from tests.support.requantization.code_graphs import FLOAT_NODES, Node, codes_at_every_level

TYPES = st.sampled_from([np.uint8, np.int8])
BINARY = ["a", "fa", "za", "b", "fb", "zb", "one", "zy"]


def of_type(kind: type, codes_: np.ndarray) -> np.ndarray:
    """uint8 codes, or the int8 codes that are 128 less."""
    return (codes_.astype(np.int16) + np.iinfo(kind).min).astype(kind)


def binary(case: Operands, kind: type, factors: tuple[np.float32, np.float32]) -> dict:
    (first, second), last = case.zeros
    zeros = dict(
        zip(("za", "zb", "zy"), of_type(kind, np.array([first, second, last])), strict=True)
    )
    return {"fa": factors[0], "fb": factors[1], "one": np.float32(1), **zeros}


def pair_nodes(op: str) -> list[Node]:
    return [
        ("DequantizeLinear", ["a", "fa", "za"], "fa_a", {}),
        ("DequantizeLinear", ["b", "fb", "zb"], "fb_b", {}),
        (op, ["fa_a", "fb_b"], "f", {}),
        ("QuantizeLinear", ["f", "one", "zy"], "y", {}),
    ]


@share_of_examples(1 / 4)
@given(sums(), TYPES)
def test_add(case: Operands, kind: type):
    """QLinearAdd, and Add between pairs of scales factor and 1, for all 65,536 pairs."""
    factors = codes.fit_sum(*case)
    want = of_type(kind, add_kernels.natural(factors, *case.zeros))
    inputs = dict(zip("ab", (of_type(kind, x) for x in every_pair()), strict=True))
    for nodes in ([("QLinearAdd", BINARY, "y", {})], pair_nodes("Add")):
        for level, got in codes_at_every_level(nodes, binary(case, kind, factors), inputs):
            assert np.array_equal(got, want), (nodes[0][0], level)


@share_of_examples(1 / 4)
@given(products(), TYPES)
def test_mul(case: Operands, kind: type):
    """QLinearMul, and Mul between pairs of scales multiplier and 1, for all 65,536 pairs."""
    multiplier = codes.fit_multiplier(*case).multiplier
    want = of_type(kind, mul_kernels.natural(multiplier, *case.zeros))
    inputs = dict(zip("ab", (of_type(kind, x) for x in every_pair()), strict=True))
    constants = binary(case, kind, (multiplier, np.float32(1)))
    for nodes in ([("QLinearMul", BINARY, "y", {})], pair_nodes("Mul")):
        for level, got in codes_at_every_level(nodes, constants, inputs):
            assert np.array_equal(got, want), (nodes[0][0], level)


@share_of_examples(1 / 2)
@given(st.data(), FUNCTION, arguments(), TYPES)
def test_unary(data: st.DataObject, function: Activation, x: ValueGrid, kind: type):
    """DequantizeLinear, the function and QuantizeLinear, for all 256 codes."""
    y = data.draw(results(function, x))
    fitted = codes.fit_table(function, x, y)
    event(f"proven: {fitted.proven}")
    if not fitted.proven:
        return
    zeros = of_type(kind, np.array([-x.low, -y.low]))
    constants = {"sx": np.float32(x.scale), "zx": zeros[0], "sy": fitted.scale, "zy": zeros[1]}
    nodes: list[Node] = [
        ("DequantizeLinear", ["q", "sx", "zx"], "x", {}),
        *FLOAT_NODES[function.name],
        ("QuantizeLinear", ["f", "sy", "zy"], "y", {}),
    ]
    every = of_type(kind, np.arange(256).repeat(3)[1:])  # kernels of vectors and of the rest
    want = of_type(kind, (fitted.codes + 128).repeat(3)[1:])
    for level, got in codes_at_every_level(nodes, constants, {"q": every}):
        assert np.array_equal(got, want), level


@share_of_examples(1 / 4)
@given(st.data(), value_grids(), value_grids(), TYPES)
def test_prelu(data: st.DataObject, x: ValueGrid, y: ValueGrid, kind: type):
    """DequantizeLinear, PRelu of three channels and QuantizeLinear, as torch computes it."""
    slopes = data.draw(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3))
    weight = torch.tensor(slopes)
    n = torch.from_numpy(x.integers).float().expand(1, 3, 256)
    ours = codes.prelu(dequantized(n, x), weight, qparams_of(x), output=output_on(y), spec=SPEC)
    want = of_type(kind, np.rint(ours.numpy() / np.float32(y.scale)) - y.low)
    zeros = of_type(kind, np.array([-x.low, -y.low]))
    constants = {"sx": np.float32(x.scale), "zx": zeros[0], "sy": np.float32(y.scale)}
    constants |= {"zy": zeros[1], "w": weight.numpy()[:, None]}
    nodes: list[Node] = [
        ("DequantizeLinear", ["q", "sx", "zx"], "x", {}),
        ("PRelu", ["x", "w"], "f", {}),
        ("QuantizeLinear", ["f", "sy", "zy"], "y", {}),
    ]
    every = of_type(kind, np.broadcast_to(np.arange(256), (1, 3, 256)))
    for level, got in codes_at_every_level(nodes, constants, {"q": every}):
        assert np.array_equal(got, want), level


def test_natural_scales_do_differ():
    """Else nothing would be tested: dyadic ratios and odd zero points, as they come."""
    case = Operands(
        ValueGrid(scale=0.5, zero_point=3),
        ValueGrid(scale=0.25, zero_point=-7),
        ValueGrid(scale=1.0, zero_point=5),
    )
    inputs = dict(zip("ab", every_pair(), strict=True))
    factors = np.float32(0.5), np.float32(0.25)
    for op, want in (
        ("QLinearAdd", add_kernels.natural(factors, *case.zeros)),
        ("QLinearMul", mul_kernels.natural(np.float32(0.125), *case.zeros)),
    ):
        nodes: list[Node] = [(op, BINARY, "y", {})]
        found = codes_at_every_level(nodes, binary(case, np.uint8, factors), inputs)
        assert all((got != want).sum() > 1000 for _, got in found), op
