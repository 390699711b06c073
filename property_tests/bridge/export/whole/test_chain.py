"""Layers one after another: what stands between them gives optimizers something to fuse."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bridge import Conv2dQAT
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import randoms
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.builders import Graph, add_layer
from tests.support.modules.case import Case
from tests.support.modules.numbers import Random

_POOL = {"kernel_shape": [2, 2], "strides": [1, 1]}


class Between(NamedTuple):
    """An operator of torch, and the same of ONNX with its attributes and further inputs."""

    op_type: str
    attributes: dict[str, Any]
    function: Callable[[Tensor], Tensor]
    constants: tuple[float, ...] = ()


_SAME_EVERYWHERE = (
    Between("Identity", {}, lambda y: y),
    Between("Relu", {}, F.relu),
    Between("LeakyRelu", {"alpha": 0.01}, F.leaky_relu),
    Between("Clip", {}, F.relu6, constants=(0.0, 6.0)),
    Between("MaxPool", _POOL, lambda y: F.max_pool2d(y, 2, 1)),
    Between("AveragePool", _POOL, lambda y: F.avg_pool2d(y, 2, 1)),
)
# torch and ONNX Runtime compute these with other last bits.
_DIFFERENT_IN_TORCH = (
    Between("Sigmoid", {}, torch.sigmoid),
    Between("Tanh", {}, torch.tanh),
    Between("HardSwish", {}, F.hardswish),
    Between("GlobalAveragePool", {}, lambda y: y.mean((2, 3), keepdim=True)),
)


class Chain(torch.nn.Module):
    """y = relu(conv2(inner) + inner), inner = between(conv1(x))."""

    def __init__(self, between: Between, channels: tuple[int, int], config: Any) -> None:
        super().__init__()
        first, second = channels
        self.between = between
        self.conv1 = Conv2dQAT(first, second, 3, padding=1, config=config)
        self.conv2 = Conv2dQAT(second, second, 3, padding=1, bias=False, config=config)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.between.function(self.conv1(x))
        return torch.relu(self.conv2(inner) + inner)

    def model(self, x: Tensor) -> Any:
        """Return the inter model."""
        graph = Graph()
        y = add_layer(graph, Case(layer=self.conv1, x=x), "x", "conv1")
        constants = [graph.constant(np.float32(value)) for value in self.between.constants]
        inner = graph.op(self.between.op_type, y, *constants, **self.between.attributes)
        y = add_layer(graph, Case(layer=self.conv2, x=x), inner, "conv2")
        return graph.model(graph.op("Relu", graph.op("Add", y, inner)), x.ndim)


_CHANNELS = st.tuples(st.integers(1, 4), st.sampled_from([1, 3, 16]))
_CONFIGS = st.builds(
    lambda asymmetric, bits: {
        "retrain_data_config": {
            "asymmetric": asymmetric,
            "dst_type": f"INT{bits}",
            "clip_max": 1.0,
        }
    },
    st.booleans(),
    st.sampled_from([8, 8, 16]),
)


@share_of_examples(1 / 2)
@given(st.sampled_from(_SAME_EVERYWHERE), _CHANNELS, _CONFIGS, randoms())
def test_chains_are_exact_from_torch_to_deploy(
    between: Between, channels: tuple[int, int], config: Any, random: Random
) -> None:
    """y_torch = y_fake = y_deploy in every bit, residual addition included."""
    chain, x = _calibrated(between, channels, config, random)
    y, _ = assert_fake_equals_deploy(chain.model(x), x.numpy())
    with torch.no_grad():
        assert_same_bits(chain(x).numpy(), y, "torch")


@share_of_examples(1 / 4)
@given(st.sampled_from(_DIFFERENT_IN_TORCH), _CHANNELS, _CONFIGS, randoms())
def test_fake_quant_equals_deploy_through_any_operator(
    between: Between, channels: tuple[int, int], config: Any, random: Random
) -> None:
    """y_fake = y_deploy in every bit, whatever float operator stands between the layers."""
    chain, x = _calibrated(between, channels, config, random)
    assert_fake_equals_deploy(chain.model(x), x.numpy())


def _calibrated(
    between: Between, channels: tuple[int, int], config: Any, random: Random
) -> tuple[Chain, Tensor]:
    """Return a chain whose clips are near the ends of what it sees, and an input for it."""
    chain = Chain(between, channels, config).eval()
    x = torch.from_numpy(random.normal(size=(2, channels[0], 5, 6)).astype(np.float32))
    with torch.no_grad():
        for parameter in chain.conv1.weight, chain.conv1.bias, chain.conv2.weight:
            numbers = random.normal(size=tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(numbers))
        inner = between.function(chain.conv1(x))
        for layer, value in (chain.conv1, x), (chain.conv2, inner):
            layer.acts_clip_max.copy_(value.max().clamp(min=1e-3) * random.uniform(0.7, 1.3))
            layer.acts_clip_min.copy_(value.min().clamp(max=0.0) * random.uniform(0.7, 1.3))
    return chain, x
