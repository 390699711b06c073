"""What each form of a convolution costs on this machine: the table of bridge/export/costs.py.

    python benchmarks/forms.py [ROUNDS]

Every shape is built in every form by the converter itself, all forms take turns in one process,
and the medians are fitted by costs that grow with the multiplications, the columns and the
outputs. Printed are the times as ratios to float32, and the table.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from bridge.export.convert import convert_model
from bridge.export.costs import FLOAT32, FORMS, GROUPINGS, QLINEAR, features, kind
from bridge.export.forms import ort_form


class Shape(NamedTuple):
    """A convolution of square kernels and pictures."""

    first: int
    last: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1


SHAPES = (
    Shape(3, 64, 7, 112, 2),
    Shape(3, 32, 3, 112, 2),
    Shape(8, 8, 3, 64),
    Shape(16, 16, 3, 32),
    Shape(32, 32, 3, 56),
    Shape(64, 64, 3, 56),
    Shape(128, 128, 3, 28),
    Shape(256, 256, 3, 14),
    Shape(512, 512, 3, 7),
    Shape(16, 96, 1, 56),
    Shape(96, 24, 1, 56),
    Shape(64, 256, 1, 56),
    Shape(256, 64, 1, 56),
    Shape(1024, 256, 1, 14),
    Shape(64, 384, 1, 14),
    Shape(960, 160, 1, 14),
    Shape(96, 96, 3, 56, 1, 96),
    Shape(144, 144, 3, 56, 2, 144),
    Shape(192, 192, 3, 28, 1, 192),
    Shape(384, 384, 3, 28, 1, 384),
    Shape(960, 960, 3, 14, 1, 960),
    Shape(64, 64, 3, 28, 1, 4),
    Shape(128, 128, 3, 28, 1, 32),
    Shape(256, 256, 3, 14, 1, 32),
    Shape(64, 64, 3, 28, 1, 16),
    Shape(128, 128, 1, 28, 1, 4),
)


def source(shape: Shape, *, chained: bool) -> onnx.ModelProto:
    """Build Q -> DQ -> Conv -> Relu, and the next layer's quantizer behind it if chained."""
    rng = np.random.default_rng(0)
    pads = [shape.kernel // 2] * 4
    weight = rng.integers(
        -127, 128, (shape.last, shape.first // shape.groups, *(shape.kernel,) * 2)
    )
    arrays = {
        "s": np.float32(0.02),
        "z": np.int8(3),
        "w": weight.astype(np.int8),
        "sw": rng.uniform(0.001, 0.002, shape.last).astype(np.float32),
        "zw": np.zeros(shape.last, np.int8),
        "b": rng.normal(size=shape.last).astype(np.float32),
        "sy": np.float32(0.02 * 0.0015 * 30 * np.sqrt(weight[0].size)),
        "zy": np.int8(-128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["v"], axis=0),
        helper.make_node(
            "Conv",
            ["d", "v", "b"],
            ["c"],
            strides=[shape.stride] * 2,
            pads=pads,
            group=shape.groups,
            kernel_shape=[shape.kernel] * 2,
        ),
        helper.make_node("Relu", ["c"], ["r" if chained else "y"]),
    ]
    if chained:
        nodes.append(helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["rq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["rq", "sy", "zy"], ["y"]))
    kind = onnx.TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", kind, (1, shape.first, shape.size, shape.size))
    y = helper.make_tensor_value_info("y", kind, None)
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "main", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def float_model(shape: Shape) -> onnx.ModelProto:
    """Build the float convolution and its Relu."""
    model = source(shape, chained=False)
    weight = np.random.default_rng(0).normal(
        size=(shape.last, shape.first // shape.groups, shape.kernel, shape.kernel)
    )
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "f"))
    conv = model.graph.node[3]
    conv.input[0], conv.input[1] = "x", "f"
    kept = list(model.graph.node)[3:]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Load a model for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def seconds(shape: Shape, rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of every form, taken in turns; FLOAT32 is the float model."""
    sessions = {FLOAT32: session(float_model(shape))}
    for chained in (False, True):
        made = source(shape, chained=chained)
        for form in FORMS:
            if chained or form != QLINEAR:
                deploy = convert_model(
                    ir.serde.deserialize_model(made),
                    choose=lambda _, chain, form=form: ort_form(form, chain),
                )[1]
                sessions[f"{form} > codes" if chained else form] = session(ir.to_proto(deploy))
    x = np.random.default_rng(1).normal(size=(1, shape.first, shape.size, shape.size))
    feed = {"x": x.astype(np.float32)}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds + 2):
        for name, one in sessions.items():
            started = time.process_time()
            one.run(None, feed)
            times[name].append(time.process_time() - started)
    return {name: float(np.median(values[2:])) for name, values in times.items()}


def main(rounds: int) -> None:
    """Measure all shapes, print the ratios and the fitted table."""
    console = Console(width=150)
    table = Table(title="float32 time / time of the form")
    table.add_column("shape")
    measured: dict[Shape, dict[str, float]] = {}
    for shape in SHAPES:
        measured[shape] = seconds(shape, rounds)
    names = list(measured[SHAPES[0]])
    for name in names:
        table.add_column(name, justify="right")
    for shape, times in measured.items():
        ratios = [f"{times[FLOAT32] / times[name]:.2f}" for name in names]
        table.add_row(str(tuple(shape)), *ratios)
    console.print(table)
    for name in names:
        for grouping in GROUPINGS:
            shapes = [s for s in SHAPES if kind(s.first // s.groups, s.groups) == grouping]
            rows, right = [], []
            for shape in shapes:
                positions = (shape.size // shape.stride) ** 2
                elements = shape.first // shape.groups * shape.kernel**2
                row = np.array(features(shape.last, elements, shape.groups)) * positions
                rows.append(row / measured[shape][name])
                right.append(1.0)
            costs, _ = nnls(np.array(rows), np.array(right))
            console.print(
                f'    ("{name}", "{grouping}"): ({", ".join(f"{c * 1e9:.3g}" for c in costs)}),'
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
