"""A probe whether ONNX Runtime on this machine sums uint8 x int8 products exactly."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bridge.export.graph.constants import Array

_DEPTH = 64
_TAPS = 3
_STEP = np.float32(1 / 2400)
"""Scale with which sums of _TAPS * _TAPS extreme products fit 8 bits, and none is near a tie."""

_ENDS = np.array([127, -128], np.int8)


@functools.cache
def sums_int8_exactly() -> bool:
    """Return whether ONNX Runtime on this machine sums uint8 x int8 products exactly.

    x86 processors without VNNI add two products in 16 bits with saturation, which 2 * 255 * 127
    exceeds. ARM64 subtracts 128 from the activations; its kernels without dot product instructions,
    and its depthwise ones, add two products in 16 bits, which 2 * (-128) * (-128) exceeds. The
    probe runs both cases, in the dense kernels for one row and for several, and in the depthwise
    one.

    Returns:
        True if models that are converted with vnni=True are exact on this machine.
    """
    return all(_sums_dense(rows) for rows in (1, 2)) and _sums_depthwise()


def _sums_dense(rows: int) -> bool:
    weight = np.tile(_ENDS, (_DEPTH, _DEPTH // 2))
    for codes in ([0, 255], [255, 0]):
        x = np.repeat(np.array(codes[:rows], np.uint8)[:, None], _DEPTH, axis=1)
        exact = x.astype(np.int32) @ weight.astype(np.int32)
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        if not np.array_equal(_run(node, x, {"w": weight}, onnx.TensorProto.INT32), exact):
            return False
    return True


def _sums_depthwise() -> bool:
    channels, zero = 32, np.uint8(128)
    weight = np.resize(_ENDS, channels).reshape(-1, 1, 1, 1).repeat(_TAPS, 2).repeat(_TAPS, 3)
    x = np.zeros((2, channels, 8, 8), np.uint8)
    x[1] = 255
    sums = x[:, :, :1, :1].astype(np.int32) * weight[:, 0, :1, :1].astype(np.int32) * _TAPS**2
    exact = np.clip(np.rint(sums * _STEP) + zero, 0, 255).astype(np.uint8)
    arrays: dict[str, Array | np.generic] = {
        "sx": np.float32(1),
        "zx": np.uint8(0),
        "w": weight,
        "sw": _STEP,
        "zw": np.int8(0),
        "sy": np.float32(1),
        "zy": zero,
    }
    node = helper.make_node("QLinearConv", ["x", *arrays], ["y"], group=channels)
    y = _run(node, x, arrays, onnx.TensorProto.UINT8)
    return np.array_equal(y, np.broadcast_to(exact, y.shape))


def _run(
    node: onnx.NodeProto, x: Array, arrays: Mapping[str, Array | np.generic], dtype: int
) -> Array:
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    results: Sequence[Array] = session.run(None, {"x": x})
    return results[0]
