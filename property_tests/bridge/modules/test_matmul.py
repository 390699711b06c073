"""MatMulQAT: training in eval mode, fake-quant and deploy give the same bits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bridge import MatMulQAT
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import Draw, configs, mixtures, randoms
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_ascend, assert_fake_equals_deploy
from tests.support.graphs.builders import Graph
from tests.support.modules.numbers import inputs

Operands = tuple[MatMulQAT, Tensor, Tensor]

_CLIPS = ((1.0, -1.0), (0.01, -3.0), (700.0, 0.0), (-0.25, -0.5), (1.0, 1.0), (1e-20, -1e-20))


@st.composite
def _shapes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw (*, m, k) and (*, k, n) of rank 2 to 6 whose batch dimensions broadcast."""
    batch = draw(st.lists(st.integers(1, 3), max_size=4))

    def part() -> list[int]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return [draw(st.sampled_from([1, size])) for size in kept]

    m, k, n = draw(st.integers(1, 6)), draw(st.integers(1, 70)), draw(st.integers(1, 20))
    return (*part(), m, k), (*part(), k, n)


@st.composite
def operands(draw: Draw) -> Operands:
    """Draw a product with ranges of its own for each operand, in eval mode, and two operands."""
    product: Any = MatMulQAT(config=draw(configs(channel_wise=False, reach=20)))
    random = draw(randoms())
    with torch.no_grad():
        for name in product.ranges:
            if draw(st.booleans()):
                high, low = draw(st.sampled_from(_CLIPS))
                getattr(product, f"{name}_clip_max").fill_(high)
                getattr(product, f"{name}_clip_min").fill_(low)
    made = [
        inputs(_like_a_layer(scale), shape, draw(mixtures()), random)
        for shape, (scale, _) in zip(draw(_shapes()), product._export_constants(), strict=True)
    ]
    return product.eval(), *made


@given(operands())
def test_torch_equals_fake_quant_equals_deploy(case: Operands) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    product, a, b = case
    y, (layer,) = assert_fake_equals_deploy(_model(*case), _packed(a, b))
    with torch.no_grad():
        assert_same_bits(product(a, b).numpy(), y, "torch")
    assert layer.zero_point_x == 0


@share_of_examples(1 / 4)
@given(operands())
def test_ascend_equals_its_fake_quant_twin(case: Operands) -> None:
    """The dialect, evaluated, equals its twin in ONNX Runtime in every bit."""
    assert_fake_equals_ascend(_model(*case), _packed(*case[1:]))


@share_of_examples(1 / 2)
@given(operands())
def test_transposing_both_sides_transposes_the_product(case: Operands) -> None:
    """(a b)^T = b^T a^T in every bit, the ranges swapped too."""
    product, a, b = case
    swapped = MatMulQAT().eval()
    renamed = {"input": "other", "other": "input"}
    values = product.state_dict()
    swapped.load_state_dict(
        {
            n.replace(n.partition("_")[0], renamed[n.partition("_")[0]], 1): v
            for n, v in values.items()
        }
    )
    swapped.config = product.config
    with torch.no_grad():
        y, other = product(a, b), swapped(b.mT.contiguous(), a.mT.contiguous()).mT
    assert_same_bits(other.contiguous().numpy(), y.numpy(), "transposed")


def _like_a_layer(scale: float) -> Any:
    constants = SimpleNamespace(scale_x=scale, zero_point_x=0, bits_x=8)
    return SimpleNamespace(_export_constants=lambda: constants)


def _packed(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.cat([a.flatten(), b.flatten()]).numpy()


def _model(product: MatMulQAT, a: Tensor, b: Tensor) -> Any:
    """Write the product of the two parts of one input: models here have one."""
    graph, start, parts = Graph(), 0, []
    for x, (scale, zero) in zip((a, b), product._export_constants(), strict=True):
        ends = (graph.constant(np.array([at])) for at in (start, start + x.numel()))
        part = graph.op("Slice", "x", *ends)
        part = graph.op("Reshape", part, graph.constant(np.array(x.shape)))
        parts.append(graph.pair(part, scale, np.int8(zero)))
        start += x.numel()
    return graph.model(graph.op("MatMul", *parts), 1)
