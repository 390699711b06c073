"""Folds the Q/DQ pair of a constant by running it in ONNX Runtime.

    constant -> QuantizeLinear -> DequantizeLinear -> y
      =>
    initializer -> y

Reason: weights that a file quantizes to 4 bits, to 8-bit floats or in blocks belong to operators
that stay in float, and the deploy model must not contain their pairs (passes.constants).
"""

import onnx_ir as ir
import onnxruntime
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from bridge.export.graph.constants import Array, constant
from bridge.export.passes.dequantization import Dequantization

_IR_VERSION = 10
_REFUSALS = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented)


def run_constant_pair(one: Dequantization, opset: int) -> Array | None:
    """Compute the Q/DQ pair of a constant.

    Args:
        one: the DequantizeLinear.
        opset: of the model.
    Returns:
        the values; None if a constant QuantizeLinear is not its input, or ONNX Runtime does not
        support the pair.
    """
    quantize = one.codes.producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    pair, made = (quantize, one.node), one.node.outputs[0].name or ""
    given = {value for node in pair for value in node.inputs if value is not None} - {one.codes}
    arrays = {value: constant(value) for value in given}
    tensors = [ir.Tensor(a, name=v.name) for v, a in arrays.items() if a is not None]
    if len(tensors) < len(arrays):
        return None
    graph = helper.make_graph(
        [ir.serde.serialize_node(node) for node in pair],
        "pair",
        [],
        [helper.make_tensor_value_info(made, one.dtype, None)],
        [ir.serde.serialize_tensor(tensor) for tensor in tensors],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Without folding or fusing nodes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    except _REFUSALS:
        return None
    values: Array = session.run([made], {})[0]
    return values
