"""Measure the time of each form of a convolution: the cost table of bridge/export/plan/costs.py.

    python benchmarks/forms.py [ROUNDS]

The converter writes every shape in every form; all of them run alternately in one process, and
their median times are fitted by costs proportional to multiplications, im2col columns and outputs.
Printed are the times relative to float32, with a star at the form that the current cost table
chooses; the shapes for which no form is as fast as float32; and the newly fitted table.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

from bridge.export.geometry.conv3d import can_be_conv2d
from bridge.export.pipeline import convert_model
from bridge.export.plan.costs import FLOAT, FLOAT32, FORMS, KINDS, QLINEAR_2D, features, kind
from bridge.export.plan.forms import Form, choose_ort_form, ort_form
from bridge.export.plan.tune import time_interleaved
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain


class Shape(NamedTuple):
    """A convolution with square or cubic kernel and input."""

    first: int
    last: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1
    op: str = "Conv"
    spatial: int = 2

    @property
    def title(self) -> str:
        """Its name in the table."""
        more = [f"/{self.stride}"] * (self.stride > 1) + [f"g{self.groups}"] * (self.groups > 1)
        kernel = "x".join([str(self.kernel)] * self.spatial)
        return " ".join([self.op, f"{self.first}-{self.last}", kernel, f"on {self.size}", *more])

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the weight."""
        first, last = self.first, self.last
        if self.op == "ConvTranspose":
            first, last = last, first
        return (last, first // self.groups, *(self.kernel,) * self.spatial)

    @property
    def attributes(self) -> dict[str, Any]:
        """ONNX attributes; a transposed convolution's output is stride times its input."""
        given: dict[str, Any] = {"strides": [self.stride] * self.spatial, "group": self.groups}
        pad = self.kernel // 2
        if self.op == "ConvTranspose":
            pad = (self.kernel - self.stride + 1) // 2
            more = self.stride - self.kernel + 2 * pad
            given["output_padding"] = [more] * self.spatial
        given["pads"] = [pad] * 2 * self.spatial
        given["kernel_shape"] = [self.kernel] * self.spatial
        return given

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of the input."""
        return (1, self.first, *(self.size,) * self.spatial)

    @property
    def terms(self) -> float:
        """Number of products in one output value (accumulator)."""
        products = self.first // self.groups * self.kernel**self.spatial
        return products / self.stride**self.spatial if self.op == "ConvTranspose" else products

    @property
    def positions(self) -> int:
        """Number of spatial positions: of the output, or of a transposed convolution's input."""
        size = self.size if self.op == "ConvTranspose" else self.size // self.stride
        return size**self.spatial


class Measured(NamedTuple):
    """Median seconds of the float model and of every form, the chosen forms, and the layer."""

    seconds: dict[str, float]
    chosen: tuple[str, ...]
    layer: QuantizedLayer


_UP = "ConvTranspose"
_CODES = " > codes"
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
    Shape(128, 64, 2, 32, 2, 1, _UP),
    Shape(64, 32, 2, 64, 2, 1, _UP),
    Shape(512, 256, 2, 8, 2, 1, _UP),
    Shape(64, 64, 4, 32, 2, 1, _UP),
    Shape(256, 128, 4, 8, 2, 1, _UP),
    Shape(32, 3, 4, 64, 2, 1, _UP),
    Shape(64, 32, 3, 32, 2, 1, _UP),
    Shape(64, 64, 3, 32, 1, 1, _UP),
    Shape(16, 8, 8, 32, 4, 1, _UP),
    Shape(64, 32, 3, 64, 2, 2, _UP),
    Shape(128, 128, 4, 16, 2, 4, _UP),
    Shape(64, 64, 2, 32, 2, 8, _UP),
    Shape(64, 64, 3, 28, 1, 16, _UP),
    Shape(64, 64, 4, 32, 2, 64, _UP),
    Shape(256, 256, 3, 14, 2, 256, _UP),
    Shape(1, 16, 3, 16, spatial=3),
    Shape(4, 8, 3, 16, spatial=3),
    Shape(8, 16, 3, 16, spatial=3),
    Shape(16, 32, 3, 16, spatial=3),
    Shape(32, 32, 3, 14, spatial=3),
    Shape(64, 64, 3, 8, spatial=3),
    Shape(32, 64, 3, 16, 2, spatial=3),
    Shape(64, 128, 1, 8, spatial=3),
    Shape(16, 16, 3, 16, 1, 16, spatial=3),
    Shape(64, 64, 3, 8, 1, 64, spatial=3),
    Shape(16, 16, 3, 12, 1, 4, spatial=3),
    Shape(64, 64, 3, 8, 1, 4, spatial=3),
    Shape(64, 64, 3, 8, 1, 16, spatial=3),
)


def source(shape: Shape, *, chained: bool) -> onnx.ModelProto:
    """Build Q -> DQ -> operator -> Relu, followed by the next layer's Q -> DQ if chained."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, shape.weight)
    # With groups, no axis of a transposed convolution's weight indexes its output channels.
    scales = () if shape.op == _UP and shape.groups > 1 else (shape.last,)
    arrays = {
        "s": np.float32(0.02),
        "z": np.int8(3),
        "w": weight.astype(np.int8),
        "sw": np.asarray(rng.uniform(0.001, 0.002, scales), np.float32),
        "zw": np.zeros(scales, np.int8),
        "b": rng.normal(size=shape.last).astype(np.float32),
        "sy": np.float32(0.02 * 0.0015 * 30 * np.sqrt(shape.terms)),
        "zy": np.int8(-128),
    }
    axis = int(shape.op == _UP)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["v"], axis=axis),
        helper.make_node(shape.op, ["d", "v", "b"], ["c"], **shape.attributes),
        helper.make_node("Relu", ["c"], ["r" if chained else "y"]),
    ]
    if chained:
        nodes.append(helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["rq"]))
        nodes.append(helper.make_node("DequantizeLinear", ["rq", "sy", "zy"], ["y"]))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape.input)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "main", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def float_model(shape: Shape) -> onnx.ModelProto:
    """Build the float convolution and its Relu."""
    model = source(shape, chained=False)
    weight = np.random.default_rng(0).normal(size=shape.weight)
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "f"))
    conv = model.graph.node[3]
    conv.input[0], conv.input[1] = "x", "f"
    kept = list(model.graph.node)[3:]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Load a model into ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def chosen(
    form: str, seen: dict[str, QuantizedLayer]
) -> Callable[[QuantizedLayer, Chain | None], Form]:
    """Return a chooser of one form that stores the layer by the form that the table chooses."""

    def choose(layer: QuantizedLayer, chain: Chain | None) -> Form:
        seen[choose_ort_form(layer, chain).form.name + (_CODES if chain else "")] = layer
        return ort_form(form, chain)

    return choose


def load(shape: Shape) -> tuple[dict[str, Callable[[], Any]], dict[str, QuantizedLayer]]:
    """Load the float model and every form; return their run functions, and the chosen layers."""
    sessions, seen = {FLOAT32: session(float_model(shape))}, {}
    for chained in (False, True):
        made = source(shape, chained=chained)
        forms = FORMS if chained else FORMS[1:]
        if chained and can_be_conv2d(next(iter(seen.values()))):
            forms = (*forms, QLINEAR_2D)
        for form in forms:
            deploy = convert_model(ir.serde.deserialize_model(made), choose=chosen(form, seen))[1]
            name = form + _CODES if chained else form
            sessions[name] = session(ir.to_proto(deploy))
    feed = {"x": np.random.default_rng(1).normal(size=shape.input).astype(np.float32)}
    return {name: partial(one.run, None, feed) for name, one in sessions.items()}, seen


def measure(rounds: int) -> dict[Shape, Measured]:
    """Measure every form of every shape, and the float models, running all alternately."""
    loaded = {shape: load(shape) for shape in SHAPES}
    runs = {
        f"{name} of {shape.title}": run
        for shape, (named, _) in loaded.items()
        for name, run in named.items()
    }
    medians = {
        key: float(np.median(values)) for key, values in time_interleaved(runs, rounds).items()
    }
    return {
        shape: Measured(
            {name: medians[f"{name} of {shape.title}"] for name in named},
            tuple(seen),
            next(iter(seen.values())),
        )
        for shape, (named, seen) in loaded.items()
    }


def fit(measured: dict[Shape, Measured], name: str, group: str) -> str | None:
    """Return the table's line for a form and a kind of layer, None if no shape has both."""
    rows = [
        np.array(features(one.layer, FLOAT if name == FLOAT32 else name.removesuffix(_CODES)))
        * shape.positions
        / one.seconds[name]
        for shape, one in measured.items()
        if kind(one.layer) == group and name in one.seconds
    ]
    if not rows:
        return None
    costs, _ = nnls(np.array(rows), np.ones(len(rows)))
    return f'    ("{name}", "{group}"): ({", ".join(f"{c * 1e9:.3g}" for c in costs)}),'


def main(rounds: int) -> None:
    """Measure all shapes; print ratios, shapes slower than float32, and the fitted table."""
    console = Console(width=150)
    measured = measure(rounds)
    names = [
        n for n in dict.fromkeys(n for m in measured.values() for n in m.seconds) if n != FLOAT32
    ]
    table = Table(title="float32 time / time of the form; * chosen")
    table.add_column("shape")
    for name in names:
        table.add_column(name, justify="right")
    slow = []
    for shape, one in measured.items():
        ratios = {n: one.seconds[FLOAT32] / one.seconds[n] for n in names if n in one.seconds}
        marks = [f"{ratios[n]:.2f}{'*' * (n in one.chosen)}" if n in ratios else "" for n in names]
        table.add_row(shape.title, *marks)
        for kept in (False, True):
            best = max((r, n) for n, r in ratios.items() if n.endswith(_CODES) == kept)
            if best[0] < 1:
                slow.append(f"{shape.title}: {best[1]}, {best[0]:.2f}")
    console.print(table)
    console.print("No form is as fast as float32; the best one is:", *slow, sep="\n    ")
    for name in (FLOAT32, *names):
        for group in KINDS:
            line = fit(measured, name, group)
            if line is not None:
                print(line)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
