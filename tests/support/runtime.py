"""ONNX Runtime at every optimization level."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

Array = np.ndarray

LEVELS = {
    name: getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
}


def session_at(model: bytes | Path, level: str, **entries: str) -> onnxruntime.InferenceSession:
    """Load a file, or the bytes of one, for one thread; entries are settings of the session."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    return onnxruntime.InferenceSession(model, options)


def outputs_at(model: bytes | Path, x: Array | Mapping[str, Array], level: str) -> list[Array]:
    """All outputs at an optimization level, of the first input or of inputs by their names."""
    session = session_at(model, level)
    feeds = x if isinstance(x, Mapping) else {session.get_inputs()[0].name: x}
    return session.run(None, feeds)


def run_at(model: bytes | Path, x: Array | Mapping[str, Array], level: str) -> Array:
    """The first output."""
    return outputs_at(model, x, level)[0]
