"""ResNet-18 in the portable QDQ form, in OpenVINO and in ONNX Runtime.

    python benchmarks/portable_qdq.py [BATCHES]

Counts the layers that OpenVINO runs in 8 bits, and compares outputs with the deploy model of target
"ort", which computes what training computed. The network's weights are random, so the differences
show how far a rounding error propagates, not accuracy: a value that is rounded the other way in one
layer changes quantized values in all later layers.

On processors without VNNI the integer kernels of both runtimes add pairs of products in 16 bits,
which saturates. ONNX Runtime's option session.x64quantprecision avoids that; results with it are
printed, too.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Array = np.ndarray
Infer = Callable[[Array], Array]

SIDE = 224
ABSENT = "the package openvino is not installed: its part is skipped"
_EIGHT_BITS = ("i8", "u8")
_QUANTIZED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def main(batches: int = 32) -> None:
    """Convert for both targets, run, print a line for each runtime."""
    with tempfile.TemporaryDirectory() as folder:
        portable, exact = convert(Path(folder))
        random = np.random.default_rng(0)
        data = [random.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(batches)]
        expected = outputs(onnx_runtime(exact), data)
        print(f"{'against deploy, target ort':44} {'relative':>9} {'largest':>9} {'argmax':>8}")
        for name, settings in {
            "no graph optimizations": {"optimize": False},
            "default": {},
            "session.x64quantprecision": {"precise": True},
        }.items():
            y = outputs(onnx_runtime(portable, **settings), data)
            print(f"{'ONNX Runtime, ' + name:44} {agreement(y, expected)}")
        try:
            import openvino
        except ImportError:
            print(ABSENT)
            return
        compiled = openvino.Core().compile_model(str(portable), "CPU")
        y = outputs(lambda x: next(iter(compiled(x).values())), data)
        print(f"{'OpenVINO ' + openvino.__version__.split('-')[0]:44} {agreement(y, expected)}")
        for (kind, precision), count in sorted(layer_precisions(compiled).items()):
            print(f"    {count:3} {kind} in {precision}")


def convert(folder: Path, width: int = 64, side: int = SIDE) -> tuple[Path, Path]:
    """Calibrate ResNet-18 on random data; write its deploy models for targets "qdq" and "ort"."""
    import torch

    from bridge import convert_qat_model
    from examples.networks import resnet18
    from tests.support.exporters import export_network
    from tests.support.networks import randomized

    model, x = randomized(lambda: resnet18(width=width), 1, 3, side, side)
    with torch.no_grad():
        inter = export_network(model, x, folder / "inter_model.onnx", dynamo=False)
    done = [convert_qat_model(inter, folder / target, target=target) for target in ("qdq", "ort")]
    return done[0].deploy, done[1].deploy


def onnx_runtime(path: Path, *, optimize: bool = True, precise: bool = False) -> Infer:
    """Load a model into ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def outputs(infer: Infer, data: Iterable[Array]) -> Array:
    """Run a model on batches."""
    return np.concatenate([infer(x) for x in data])


def agreement(y: Array, expected: Array) -> str:
    """Return the relative error, the largest error over the largest output, and equal argmaxes."""
    error = np.abs(y - expected)
    relative = np.linalg.norm(error) / np.linalg.norm(expected)
    same = int((y.argmax(1) == expected.argmax(1)).sum())
    return f"{relative:9.2%} {error.max() / np.abs(expected).max():9.2%} {same:4}/{len(y)}"


def layer_precisions(compiled: Any) -> Counter[tuple[str, str]]:
    """Count the matrix products of an OpenVINO model by kind of layer and precision.

    Args:
        compiled: a model compiled by openvino.Core().compile_model for a CPU.
    Returns:
        counts by (kind, precision): "8 bits" if the kernel and its input are of 8 bits.
    """
    found: Counter[tuple[str, str]] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind, precision, kernel = (
            info[key].astype(str) for key in ("layerType", "runtimePrecision", "primitiveType")
        )
        if kind in _QUANTIZED:
            eight = precision in _EIGHT_BITS and kernel.lower().endswith("i8")
            found[kind, "8 bits" if eight else precision] += 1
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
