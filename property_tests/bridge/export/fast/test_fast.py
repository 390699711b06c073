"""Mode "fast" over drawn graphs: sums, joins, pools and activations in any order."""

import numpy as np
import onnx_ir as ir
from hypothesis import event, given
from hypothesis import strategies as st

from bridge.export.plan.costs import QLINEAR
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import randoms
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.builders import Graph
from tests.support.modules.numbers import Random

_POOL = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
_STEPS = (
    *("conv", "conv", "conv", "Add", "Add", "Add", "Concat", "Relu", "Relu", "Clip"),
    *("MaxPool", "AveragePool", "LeakyRelu", "LeakyRelu", "Sigmoid", "Identity"),
)


class Network:
    """A graph that grows by one operator at a time, on values that were made before."""

    def __init__(self, random: Random) -> None:
        self.graph, self.random = Graph(), random
        self.channels = {"x": 3}
        self.unread: dict[str, None] = {}
        self.grow("conv", 0)

    def grow(self, step: str, place: int) -> None:
        """Add an operator that reads the value at a place, counted from the last one."""
        values = list(self.channels)
        x = values[-1 - place % len(values)]
        other = values[self.random.integers(len(values))]
        size, inputs = self.channels[x], [x]
        if step == "conv":
            y, size = self._conv(x), 4
        elif step == "Add":
            fitting = [v for v in values if self.channels[v] == size]
            inputs.append(fitting[self.random.integers(len(fitting))])
            y = self.graph.op("Add", *inputs)
        elif step == "Concat":
            inputs.append(other)
            y, size = self.graph.op("Concat", *inputs, axis=1), size + self.channels[other]
        elif step == "Clip":
            ends = [self.graph.constant(np.float32(end)) for end in (-0.5, 2.0)]
            y = self.graph.op("Clip", x, *ends)
        else:
            y = self.graph.op(step, x, **(_POOL if step.endswith("Pool") else {}))
        for value in inputs:
            self.unread.pop(value, None)
        self.channels[y] = size
        self.unread[y] = None

    def model(self) -> ir.Model:
        """Return the model of what no operator reads, joined."""
        self.grow("conv", 0)
        return self.graph.model(self.graph.op("Concat", *self.unread, axis=1), 4)

    def _conv(self, x: str) -> str:
        """Round values of size one to codes of a drawn range; keep the size."""
        channels, random, graph = self.channels[x], self.random, self.graph
        scale = random.choice([0.01, 0.02, 0.02, 0.031])
        x = graph.pair(x, scale, np.int8(random.choice([-128, -128, -20, 3])))
        weight = random.integers(-127, 128, (4, channels, 3, 3)).astype(np.int8)
        scales = (random.uniform(0.5, 1.0, 4) / 127 / np.sqrt(channels * 3)).astype(np.float32)
        numbers = (
            graph.constant(weight),
            graph.constant(scales),
            graph.constant(np.zeros(4, np.int8)),
        )
        bias = graph.constant(random.normal(0.0, 0.3, 4).astype(np.float32))
        weight_name = graph.op("DequantizeLinear", *numbers, axis=0)
        return graph.op("Conv", x, weight_name, bias, pads=[1, 1, 1, 1])


@share_of_examples(1 / 8)
@given(
    st.lists(
        st.tuples(st.sampled_from(_STEPS), st.sampled_from([0, 0, 0, 1, 2])),
        min_size=3,
        max_size=10,
    ),
    st.sampled_from([QLINEAR, None]),
    randoms(),
)
def test_fake_quant_equals_deploy(
    steps: list[tuple[str, int]], form: str | None, random: Random
) -> None:
    """y_fake = y_deploy in every bit at every level, for data that ranges were not made of too."""
    network = Network(random)
    for step, place in steps:
        network.grow(step, place)
    data, x = random.normal(size=(2, 1, 3, 5, 6)).astype(np.float32)
    _, layers = assert_fake_equals_deploy(network.model(), x, form=form, data=[data])
    for layer in layers:
        event(f"{layer.op}: {layer.form}")
