"""bridge.export.graph.constants: arrays that do not depend on the model's inputs."""

import numpy as np
import onnx_ir as ir
import pytest

from bridge.export.graph.constants import constant, data_source, reshaper
from tests.support.graphs.text import model

ARRAY = np.arange(6, dtype=np.float32).reshape(1, 2, 3)

SHAPES = {
    "identity": ("y = Identity (a)", {}, ARRAY),
    "transpose": ("y = Transpose (a)", {}, ARRAY.transpose()),
    "transpose by perm": ("y = Transpose <perm = [1, 0, 2]> (a)", {}, ARRAY.transpose(1, 0, 2)),
    "reshape": ("y = Reshape (a, s)", {"s": np.array([3, 2])}, ARRAY.reshape(3, 2)),
    "reshape with -1": ("y = Reshape (a, s)", {"s": np.array([-1, 2])}, ARRAY.reshape(3, 2)),
    "reshape that keeps": (
        "y = Reshape (a, s)",
        {"s": np.array([0, -1])},
        ARRAY.reshape(1, 6),
    ),
    "flatten": ("y = Flatten (a)", {}, ARRAY.reshape(1, 6)),
    "flatten at 2": ("y = Flatten <axis = 2> (a)", {}, ARRAY.reshape(2, 3)),
    "flatten at 0": ("y = Flatten <axis = 0> (a)", {}, ARRAY.reshape(1, 6)),
    "unsqueeze": ("y = Unsqueeze (a, s)", {"s": np.array([0, 4])}, ARRAY[None, ..., None]),
    "squeeze": ("y = Squeeze (a)", {}, ARRAY[0]),
    "squeeze an axis": ("y = Squeeze (a, s)", {"s": np.array([0])}, ARRAY[0]),
    "two in a row": ("t = Transpose (a) y = Squeeze (t)", {}, ARRAY[0].T),
}


def output(body, **arrays):
    return ir.from_proto(model(body, a=ARRAY, **arrays)).graph.outputs[0]


@pytest.mark.parametrize("case", SHAPES)
def test_shape_operators_on_constants(case):
    body, arrays, expected = SHAPES[case]
    value = output(body, **arrays)
    assert constant(value).tolist() == expected.tolist()
    assert data_source(value).name == "a"
    if "two" not in case:
        move = reshaper(value.producer())
        assert move(ARRAY).tolist() == expected.tolist()


def test_a_reshape_that_allows_zero():
    empty = np.zeros((0, 3), np.float32)
    value = output("y = Reshape <allowzero = 1> (e, s)", e=empty, s=np.array([3, 0]))
    assert constant(value).shape == (3, 0)


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (a)",
        "y = Identity (x)",
        "s = Shape (x) y = Reshape (a, s)",
        "s = Shape (x) y = Unsqueeze (a, s)",
        "s = Shape (x) y = Squeeze (a, s)",
    ],
)
def test_what_depends_on_the_input_or_on_arithmetic_is_no_constant(body):
    assert constant(output(body)) is None


def test_a_constant_between_constant_ends():
    value = output("y = Clip (a, low, high)", low=np.float32(1), high=np.float32(4))
    assert constant(value).tolist() == ARRAY.clip(1, 4).tolist()


@pytest.mark.parametrize("body", ["y = Clip (a)", "y = Clip (a, low)", "y = Clip (a, low, m)"])
def test_a_constant_without_two_constant_ends(body):
    body = "m = ReduceMax <keepdims = 0> (x) " + body
    assert constant(output(body, low=np.float32(1))) is None


def test_constant_nodes_are_constants():
    value = output("y = Constant <value_ints = [3, 4]> ()")
    assert constant(value).tolist() == [3, 4]
    assert data_source(value) is value


def test_nothing_is_no_constant():
    assert constant(None) is None
