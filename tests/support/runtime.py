"""ONNX Runtime at every optimization level."""

import numpy as np
import onnxruntime

Array = np.ndarray

LEVELS = {
    name: getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
}


def run_at(model: bytes, x: Array, level: str) -> Array:
    """Run a model in ONNX Runtime at an optimization level, for its first output."""
    return outputs_at(model, x, level)[0]


def outputs_at(model: bytes, x: Array, level: str) -> list[Array]:
    """Run a model in ONNX Runtime at an optimization level."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options)
    return session.run(None, {session.get_inputs()[0].name: x})
