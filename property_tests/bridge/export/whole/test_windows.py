"""Limits and pools in any order behind a convolution, with windows that may see only padding."""

from typing import Any

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from bridge.export.plan.costs import QLINEAR, QLINEAR_2D
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import randoms
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.builders import Graph
from tests.support.modules.numbers import Random


@st.composite
def _pools(draw: Any, *, spatial: int) -> dict[str, Any]:
    """Draw a MaxPool of outputs no larger than its input, whose windows may lie in padding."""
    axes = range(spatial)
    kernel = [draw(st.integers(1, 3)) for _ in axes]
    return {
        "kernel_shape": kernel,
        "dilations": [draw(st.sampled_from([1, 3])) for _ in axes],
        "strides": [draw(st.integers(1, 2)) for _ in axes],
        "pads": [draw(st.sampled_from([0, size - 1])) for size in kernel * 2],
        "ceil_mode": draw(st.integers(0, 1)),
    }


@st.composite
def _operators(draw: Any) -> tuple[int, list[dict[str, Any] | tuple[float, float]]]:
    """Draw the spatial axes, and pools by their attributes between limits by their ends."""
    spatial = draw(st.integers(1, 3))
    limits = st.sampled_from([(0.0, np.inf), (-0.25, 1.5), (0.1, 6.0), (-np.inf, 0.5)])
    steps = st.lists(st.one_of(limits, _pools(spatial=spatial)), max_size=2)
    return spatial, [*draw(steps), draw(_pools(spatial=spatial)), draw(limits), *draw(steps)]


def _conv(graph: Graph, x: str, zero_point: int, *, spatial: int, random: Random) -> str:
    x = graph.pair(x, 0.02, np.int8(zero_point))
    weight = random.integers(-127, 128, (8, 8, *(2,) * spatial)).astype(np.int8)
    scales = (random.uniform(0.5, 1.0, 8) / 127 / 4).astype(np.float32)
    numbers = [graph.constant(array) for array in (weight, scales, np.zeros(8, np.int8))]
    pads = [1] * spatial + [0] * spatial
    return graph.op("Conv", x, graph.op("DequantizeLinear", *numbers, axis=0), pads=pads)


@share_of_examples(1 / 2)
@given(
    _operators(),
    st.sampled_from([-128, -20, 3]),
    st.sampled_from([QLINEAR, QLINEAR, QLINEAR_2D]),
    randoms(),
)
def test_limits_and_pools_in_any_order(
    operators: tuple[int, list[dict[str, Any] | tuple[float, float]]],
    zero_point: int,
    form: str,
    random: Random,
) -> None:
    """y_fake = y_deploy in every bit, where a pool has nothing to take the largest of too."""
    graph, (spatial, steps) = Graph(), operators
    x = random.normal(size=(1, 8, *random.integers(1, 5, spatial))).astype(np.float32)
    y, sizes = _conv(graph, "x", 3, spatial=spatial, random=random), np.array(x.shape[2:])
    for step in steps:
        if isinstance(step, tuple):
            y = graph.op("Clip", y, *(graph.constant(np.float32(end)) for end in step))
            continue
        pads = np.reshape(step["pads"], (2, -1)).sum(axis=0)
        spans = np.multiply(step["dilations"], np.subtract(step["kernel_shape"], 1))
        if (sizes + pads > spans).all():
            y, sizes = graph.op("MaxPool", y, **step), (sizes + pads - spans - 1) // step["strides"]
            sizes += 1  # at least; ceil_mode may add one
    y = _conv(graph, y, zero_point, spatial=spatial, random=random)
    _, layers = assert_fake_equals_deploy(graph.model(y, spatial + 2), x, form=form)
    event(layers[0].form)
