"""Random QDQ networks: quantized layers between pools, limits, shape and float operators."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from property_tests.strategies.graphs import Shaped
from property_tests.strategies.modules import Draw

Array = np.ndarray
_FLOATS = ("Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Elu", "Neg", "Abs", "Softplus", "Identity")
_LIMITS = ((0.0, 1.5), (-0.5, 2.0), (0.1, 3.0), (-3.0, 0.4), (0.0, 6.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A QDQ model and an input for it."""

    model: onnx.ModelProto
    x: Array


Step = Callable[[Shaped, str], str | None]


def conv(graph: Shaped, x: str) -> str | None:
    """A convolution of any geometry, quantized or in float."""
    shape = graph.shapes[x]
    spatial = len(shape) - 2
    if not 1 <= spatial <= 3:
        return None
    groups = graph.choose(*{1, shape[1], *(g for g in (2, 4) if shape[1] % g == 0)})
    out = groups * graph.choose(1, 2, 3) if groups > 1 else graph.choose(1, 3, 4, 8)
    kernel = graph.sizes(spatial, 1, 2, 3)
    weight_shape = (out, shape[1] // groups, *kernel)
    fan = float(np.prod(weight_shape[1:]))
    floats = graph.choose(False, False, False, False, True)
    w = graph.weight(weight_shape, 0, fan)
    inputs = [x if floats else graph.quantized(x), w, *_bias(graph, out)]
    return graph.write(
        "Conv",
        *inputs,
        kernel_shape=kernel,
        strides=graph.sizes(spatial, 1, 1, 2, 3),
        dilations=graph.sizes(spatial, 1, 1, 2),
        pads=graph.sizes(2 * spatial, 0, 1, 2),
        group=groups,
    )


def conv_transpose(graph: Shaped, x: str) -> str | None:
    """A transposed convolution, with output_padding up to what torch allows."""
    shape = graph.shapes[x]
    spatial = len(shape) - 2
    if not 1 <= spatial <= 3:
        return None
    groups = graph.choose(*{1, shape[1], *(g for g in (2,) if shape[1] % g == 0)})
    kernel, strides = graph.sizes(spatial, 1, 2, 3), graph.sizes(spatial, 1, 2, 3)
    per_group = graph.choose(1, 2, 3)
    dilations = graph.sizes(spatial, 1, 1, 2)
    weight_shape = (shape[1], per_group, *kernel)
    w = graph.weight(weight_shape, 1 if groups == 1 else None, shape[1] / groups)
    inputs = [graph.quantized(x), w, *_bias(graph, groups * per_group)]
    largest = [stride - 1 for stride in strides]
    return graph.write(
        "ConvTranspose",
        *inputs,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=graph.sizes(2 * spatial, 0, 1),
        output_padding=[graph.choose(*range(m + 1)) for m in largest],
        group=groups,
    )


def linear(graph: Shaped, x: str) -> str | None:
    """A Gemm, or a MatMul with the bias as an Add."""
    *rows, features = graph.shapes[x]
    out = graph.choose(1, 3, 8)
    if len(rows) == 1 and graph.choose(True, False):
        w = graph.weight((out, features), 0, features)
        return graph.write("Gemm", graph.quantized(x), w, graph.vector(out), transB=1)
    y = graph.write("MatMul", graph.quantized(x), graph.weight((features, out), None, features))
    return y and (graph.write("Add", y, graph.vector(out)) if graph.choose(True, False) else y)


def _bias(graph: Shaped, out: int) -> list[str]:
    return [graph.vector(out)] if graph.choose(True, False) else []


def pool(graph: Shaped, x: str) -> str | None:
    """A pool whose windows may lie wholly in padding where that is allowed."""
    spatial = len(graph.shapes[x]) - 2
    if not 1 <= spatial <= 3:
        return None
    op_type = graph.choose("MaxPool", "MaxPool", "AveragePool", "GlobalAveragePool")
    if op_type == "GlobalAveragePool":
        return graph.write(op_type, x)
    kernel = graph.sizes(spatial, 1, 2, 3)
    more: dict[str, Any] = {"count_include_pad": graph.choose(0, 1)}
    if op_type == "MaxPool":
        more = {"dilations": graph.sizes(spatial, 1, 1, 2, 3), "ceil_mode": graph.choose(0, 0, 1)}
    pads = [graph.choose(*range(k)) for k in (*kernel, *kernel)]
    strides = graph.sizes(spatial, 1, 1, 2)
    return graph.write(op_type, x, kernel_shape=kernel, strides=strides, pads=pads, **more)


def limit(graph: Shaped, x: str) -> str | None:
    """A clamp: Relu, or a Clip that may exclude zero."""
    if graph.choose(True, False):
        return graph.write("Relu", x)
    ends = [graph.constant(np.float32(end)) for end in graph.choose(*_LIMITS)]
    return graph.write("Clip", x, *ends)


def floating(graph: Shaped, x: str) -> str | None:
    """An operator that stays in float."""
    if graph.choose(True, True, True, False) or len(graph.shapes[x]) < 3:
        return graph.write(graph.choose(*_FLOATS), x)
    channels = graph.shapes[x][1]
    positive = graph.constant(graph.random.uniform(0.5, 1.5, channels).astype(np.float32))
    return graph.write(
        "BatchNormalization", x, positive, *(graph.vector(channels) for _ in "bm"), positive
    )


def pair(graph: Shaped, x: str) -> str | None:
    """A pair that no layer needs."""
    return graph.quantized(x)


def add(graph: Shaped, x: str) -> str | None:
    """A sum or a product with any value of the same shape."""
    others = [v for v, shape in graph.shapes.items() if shape == graph.shapes[x]]
    return graph.write(graph.choose("Add", "Add", "Mul"), x, graph.choose(*others))


def concat(graph: Shaped, x: str) -> str | None:
    """A join of two values in their channels."""
    shape = graph.shapes[x]
    if len(shape) < 2:
        return None

    def fits(other: tuple[int, ...]) -> bool:
        return len(other) == len(shape) and (other[0], *other[2:]) == (shape[0], *shape[2:])

    others = [v for v, other in graph.shapes.items() if fits(other)]
    return graph.write("Concat", x, graph.choose(*others), axis=1)


def shaping(graph: Shaped, x: str) -> str | None:
    """An operator that moves values: Flatten, Transpose, Pad, Resize or Slice."""
    rank = len(graph.shapes[x])
    kind = graph.choose("Flatten", "Transpose", "Pad", "Resize", "Slice")
    if rank < 3:
        return None
    if kind == "Flatten":
        return graph.write(kind, x, axis=1)
    if kind == "Transpose":
        return graph.write(kind, x, perm=[0, *graph.draw(st.permutations(range(1, rank)))])
    if kind == "Pad":
        pads = np.array([0, 0, *graph.sizes(rank - 2, 0, 1)] * 2, np.int64)
        value = [graph.constant(np.float32(-1.0))] if graph.choose(False, False, True) else []
        return graph.write(kind, x, graph.constant(pads), *value)
    if kind == "Resize":
        scales = graph.constant(np.array([1, 1, *[2] * (rank - 2)], np.float32))
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return graph.write(kind, x, "", scales, mode="nearest", **modes)
    ends = [graph.constant(np.array([n], np.int64)) for n in (1, 1 << 31, rank - 1)]
    return graph.write(kind, x, *ends)


def same_shape(graph: Shaped, x: str) -> str | None:
    """A quantized convolution that keeps the shape, for the bodies of control flow."""
    shape = graph.shapes[x]
    if len(shape) != 4:
        return None
    k = graph.choose(1, 3)
    w = graph.weight((shape[1], shape[1], k, k), 0, shape[1] * k * k)
    return graph.write("Conv", graph.quantized(x), w, pads=[k // 2] * 4, kernel_shape=[k, k])


def control(graph: Shaped, x: str) -> str | None:
    """An If or a Loop with quantized layers inside."""
    shape = graph.shapes[x]
    if len(shape) != 4:
        return None
    kind = graph.choose("If", "Loop")
    state = "state_" + x if kind == "Loop" else x
    bodies = [_body(graph, x, state) for _ in range(2 if kind == "If" else 1)]
    if kind == "If":
        largest = graph.op("ReduceMax", x, keepdims=0)
        level = graph.constant(np.float32(graph.choose(0.1, 100.0)))
        inputs = [graph.op("Greater", largest, level)]
        attributes = {
            key: helper.make_graph(nodes, key, [], [_info(y)])
            for key, (nodes, y) in zip(("then_branch", "else_branch"), bodies, strict=True)
        }
    else:
        (nodes, y), n = bodies[0], len(graph.nodes)
        counter = helper.make_tensor_value_info(f"i{n}", onnx.TensorProto.INT64, [])
        on = [helper.make_tensor_value_info(f"{k}{n}", onnx.TensorProto.BOOL, []) for k in "ab"]
        nodes.append(helper.make_node("Identity", [on[0].name], [on[1].name]))
        body = helper.make_graph(nodes, "body", [counter, on[0], _info(state)], [on[1], _info(y)])
        inputs = [graph.constant(np.int64(graph.choose(1, 2))), graph.constant(np.array(True)), x]
        attributes = {"body": body}
    output = graph.op(kind, *inputs, **attributes)
    graph.shapes[output] = shape
    return output


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["a", "b", "c", "d"])


def _body(graph: Shaped, x: str, state: str) -> tuple[list[onnx.NodeProto], str]:
    """Write steps that keep the shape into a graph of their own, whose constants are outside."""
    outside, graph.nodes, shapes = graph.nodes, [], dict(graph.shapes)
    graph.shapes[state] = shapes[x]
    start = sum(len(nodes) for nodes in (outside, graph.constants))
    value, names = state, []
    for _ in range(graph.choose(1, 2, 3)):
        step = graph.choose(same_shape, same_shape, limit, pair, floating)
        value = step(graph, value) or value
    names = [output for node in graph.nodes for output in node.output]
    if value == state:
        value = graph.op("Neg", state)
        names.append(value)
    nodes, graph.nodes, graph.shapes = graph.nodes, outside, shapes
    fresh = {name: f"{name}_in_{start}" for name in names}
    for node in nodes:
        node.input[:] = [fresh.get(name, name) for name in node.input]
        node.output[:] = [fresh[name] for name in node.output]
        node.name = f"{node.name}_in_{start}"
    return nodes, fresh[value]


STEPS: tuple[Step, ...] = (
    *(conv, conv, conv, conv_transpose, conv_transpose, linear),
    *(pool, pool, limit, limit, floating, pair, add, concat, shaping, control),
)


@st.composite
def networks(draw: Draw) -> Network:
    """Any network of up to nine steps that ends in a quantized layer; several outputs."""
    rank = draw(st.sampled_from([3, 4, 4, 4, 5]))
    sides = {3: (3, 12), 4: (2, 8), 5: (2, 5)}[rank]
    batch, channels = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 4, 8]))
    shape = (batch, channels, *(draw(st.integers(*sides)) for _ in range(rank - 2)))
    graph = Shaped(draw, {"x": shape})
    value = "x"
    for _ in range(draw(st.integers(1, 9))):
        made = draw(st.sampled_from(STEPS))(graph, value)
        if made is not None:
            value = made
        if draw(st.integers(0, 4)) == 0:  # go on from an earlier value
            value = draw(st.sampled_from(list(_readable(graph))))
    last = linear(graph, value) or same_shape(graph, value)
    outputs = {last or value, *draw(st.lists(st.sampled_from(list(_readable(graph))), max_size=2))}
    x = graph.random.normal(0, draw(st.sampled_from([0.3, 1.0, 4.0])), shape).astype(np.float32)
    return Network(model=_model(graph, sorted(outputs - {"x"})), x=x)


def _readable(graph: Shaped) -> set[str]:
    """Values that another operator may read: no weights."""
    made = {output for node in graph.nodes for output in node.output if output in graph.shapes}
    constants = {c.name for c in graph.constants}
    weights = {node.output[0] for node in graph.nodes if node.input[0] in constants}
    return (made - weights) | {"x"}


def _model(graph: Shaped, outputs: list[str]) -> onnx.ModelProto:
    x, *ys = (
        helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, graph.shapes[v])
        for v in ("x", *outputs)
    )
    made = helper.make_graph(graph.nodes, "main", [x], ys, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
