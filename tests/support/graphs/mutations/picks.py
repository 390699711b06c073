"""What a mutation draws: a graph, node, tensor or value of a model, and values to write there."""

import random
from collections.abc import Callable, Iterator

import onnx
from onnx import AttributeProto, TensorProto

Mutation = Callable[[random.Random, onnx.ModelProto], None]

NUMBERS = (0, 1, -1, 2, -2, 3, 4, 7, 77, -77, 1 << 31, -(1 << 31), (1 << 40) + 1, (1 << 63) - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
ODD_NAMES = ("", "x", "y", "xd", "nothing", "../../x", "a/b", "a\nb", "é\u0000", "n" * 3000)
OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "QuantizeLinear", "DequantizeLinear", "Relu"),
    *("Add", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Constant"),
    *("BatchNormalization", "If", "Loop", "Cast", "ConvInteger", "AscendQuant", "", "NoSuch"),
)
SCOPES = ("[", "[" * 3000, "['a', 'b']", "{}", "1", "['a', ['b'], 3]", "\u0000")


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_graphs(attribute.g)


def any_graph(rng: random.Random, proto: onnx.ModelProto) -> onnx.GraphProto:
    return rng.choice([proto.graph, *all_graphs(proto.graph)])


def any_node(rng: random.Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    nodes = [node for graph in all_graphs(proto.graph) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    return rng.choice(nodes) if nodes else proto.graph.node.add(op_type="Relu")


def any_tensor(rng: random.Random, proto: onnx.ModelProto) -> TensorProto:
    tensors = [tensor for graph in all_graphs(proto.graph) for tensor in graph.initializer]
    nodes = [node for graph in all_graphs(proto.graph) for node in graph.node]
    tensors += [a.t for node in nodes for a in node.attribute if a.type == AttributeProto.TENSOR]
    return rng.choice(tensors) if tensors else proto.graph.initializer.add(name="t")


def any_value(rng: random.Random, proto: onnx.ModelProto) -> str:
    names = [
        name for graph in all_graphs(proto.graph) for node in graph.node for name in node.output
    ]
    names += [tensor.name for tensor in proto.graph.initializer]
    return rng.choice([*names, rng.choice(ODD_NAMES)])
