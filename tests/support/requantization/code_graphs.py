"""One operator between quantizers as an ONNX model, and its codes at every optimization level."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.runtime import LEVELS, run_at

Array = np.ndarray
Node = tuple[str, list[str], str, dict[str, Any]]
_OPSETS = [("", 21), ("com.microsoft", 1)]


def codes_at_every_level(
    nodes: Sequence[Node], constants: dict[str, Any], inputs: dict[str, Array]
) -> Iterator[tuple[str, Array]]:
    """Run a graph of codes `y` at all levels.

    Args:
        nodes: operator, inputs, output and attributes of each; QLinear operators are those of
            com.microsoft.
        constants: arrays by name.
        inputs: codes by name, all of one dtype, which is that of y too.
    Returns:
        the level's name and y.
    """
    made = [
        helper.make_node(
            op, names, [out], domain="com.microsoft" if op.startswith("QLinear") else "", **more
        )
        for op, names, out, more in nodes
    ]
    kind = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        made,
        "codes",
        [helper.make_tensor_value_info(name, kind, x.shape) for name, x in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    for level in LEVELS:
        yield level, run_at(model.SerializeToString(), inputs, level)


FLOAT_NODES: dict[str, list[Node]] = {
    "relu": [("Relu", ["x"], "f", {})],
    "leaky_relu": [("LeakyRelu", ["x"], "f", {"alpha": 0.1})],
    "sigmoid": [("Sigmoid", ["x"], "f", {})],
    "tanh": [("Tanh", ["x"], "f", {})],
    "silu": [("Sigmoid", ["x"], "s", {}), ("Mul", ["x", "s"], "f", {})],
    "gelu": [("Gelu", ["x"], "f", {})],
    "gelu_tanh": [("Gelu", ["x"], "f", {"approximate": "tanh"})],
    "hardswish": [("HardSwish", ["x"], "f", {})],
    "hardsigmoid": [("HardSigmoid", ["x"], "f", {"alpha": 1 / 6, "beta": 0.5})],
    "softplus": [("Softplus", ["x"], "f", {})],
    "elu": [("Elu", ["x"], "f", {"alpha": 1.0})],
    "mish": [("Mish", ["x"], "f", {})],
}
"""The nodes of each activation function, from x to f."""
