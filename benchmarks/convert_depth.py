"""How conversion time grows with depth: chains of convolutions, 1, 2, 4 and 8 times as deep.

    python benchmarks/convert_depth.py

A block is a quantized 1 x 1 convolution with bias and a Relu: 5 nodes. Weights are small, so that
the time per node is measured, not the time per byte of weights. Seconds are CPU time of the
process, the least of three runs.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bridge import convert_qat_model

BLOCKS = 100
CHANNELS = 8
REPEATS = 3


def main() -> None:
    """Print seconds, and microseconds per node, for each depth and target."""
    print(f"{'target':8}{'depth':>6}{'nodes':>8}{'seconds':>9}{'us a node':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for target in ("ort", "ascend"):
            for times in (1, 2, 4, 8):
                model = chain(times * BLOCKS)
                path = Path(folder, f"chain_{times}.onnx")
                onnx.save(model, path)
                nodes = len(model.graph.node)
                seconds = min(convert(path, target) for _ in range(REPEATS))
                print(
                    f"{target:8}{times:>5}x{nodes:>8}{seconds:>9.2f}{1e6 * seconds / nodes:>11.0f}"
                )


def convert(path: Path, target: str) -> float:
    """Convert once and return the CPU seconds."""
    started = time.process_time()
    convert_qat_model(path, path.with_name(f"{path.stem}_{target}"), target=target)
    return time.process_time() - started


def chain(blocks: int) -> onnx.ModelProto:
    """Build a chain of quantized convolutions with different weights."""
    rng = np.random.default_rng(0)
    arrays = {"scale_x": np.float32(0.05), "scale_w": np.float32(0.01), "zero": np.int8(0)}
    nodes = []
    value = "x"
    for i in range(blocks):
        name = f"blocks.{i}"
        shape = (CHANNELS, CHANNELS, 1, 1)
        arrays[f"{name}.weight"] = rng.integers(-127, 128, shape).astype(np.int8)
        arrays[f"{name}.bias"] = rng.normal(size=CHANNELS).astype(np.float32)
        x_q, x, weight, y = (f"{name}.{part}" for part in ("x_q", "x", "w", "y"))
        nodes += [
            helper.make_node("QuantizeLinear", [value, "scale_x", "zero"], [x_q]),
            helper.make_node("DequantizeLinear", [x_q, "scale_x", "zero"], [x]),
            helper.make_node("DequantizeLinear", [f"{name}.weight", "scale_w", "zero"], [weight]),
            helper.make_node("Conv", [x, weight, f"{name}.bias"], [y], name=name),
            helper.make_node("Relu", [y], [f"{name}.relu"]),
        ]
        value = f"{name}.relu"
    size = ["N", CHANNELS, 4, 4]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, size)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    main()
