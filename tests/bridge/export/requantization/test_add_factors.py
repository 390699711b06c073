"""Factors of sums on ONNX Runtime's own kernel, for every pair of codes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from qatfunc.codes.add_factors import fit_factors
from tests.support.requantization.add_kernels import every_pair, natural

CASES = {
    "a residual sum": ((0.7312, 0.4021), (128, 0), 0),
    "of equal scales": ((0.5, 0.5), (0, 0), 0),
    "a scale as it is": ((1.0, 1.0), (128, 128), 127),
    "an odd zero point": ((0.61, 0.34), (3, 250), 77),
    "beyond what the codes hold": ((3.1, 2.7), (10, 200), 128),
    "a small operand": ((1.0, 0.004), (128, 128), 128),
}


@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_agrees_on_every_pair(name):
    factors, zeros, zero_y = CASES[name]
    fitted = fit_factors(factors, zeros, zero_y)
    assert np.array_equal(run(fitted, zeros, zero_y), natural(fitted, zeros, zero_y))


def run(factors, zeros, zero_y):
    """QLinearAdd on this machine."""
    a, b = every_pair()
    numbers = {
        "fa": factors[0],
        "za": np.uint8(zeros[0]),
        "fb": factors[1],
        "zb": np.uint8(zeros[1]),
        "one": np.float32(1),
        "zy": np.uint8(zero_y),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                "QLinearAdd",
                ["a", "fa", "za", "b", "fb", "zb", "one", "zy"],
                ["y"],
                domain="com.microsoft",
            )
        ],
        "sum",
        [helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, a.shape) for n in "ab"],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, a.shape)],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in numbers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"a": a, "b": b})[0]
