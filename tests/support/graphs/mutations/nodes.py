"""Nodes, and what they read: renamed, removed, out of order, with other attributes."""

import random

import onnx
from onnx import helper

from tests.support.graphs.mutations.picks import (
    FLOATS,
    NUMBERS,
    ODD_NAMES,
    OPERATORS,
    SCOPES,
    all_graphs,
    any_graph,
    any_node,
    any_value,
)


def operator(rng: random.Random, proto: onnx.ModelProto) -> None:
    any_node(rng, proto).op_type = rng.choice(OPERATORS)


def domain(rng: random.Random, proto: onnx.ModelProto) -> None:
    any_node(rng, proto).domain = rng.choice(("ai.onnx", "local", "com.microsoft", "no.such"))


def node_name(rng: random.Random, proto: onnx.ModelProto) -> None:
    any_node(rng, proto).name = rng.choice(ODD_NAMES)


def scopes(rng: random.Random, proto: onnx.ModelProto) -> None:
    key = "pkg.torch.onnx.name_scopes"
    any_node(rng, proto).metadata_props.add(key=key, value=rng.choice(SCOPES))


def nodes_gone(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    if graph.node:
        del graph.node[rng.randrange(len(graph.node))]


def nodes_twice(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    if graph.node:
        graph.node.append(rng.choice(graph.node))


def nodes_out_of_order(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    nodes = list(graph.node)
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def reader(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = any_node(rng, proto)
    if node.input:
        node.input[rng.randrange(len(node.input))] = any_value(rng, proto)


def inputs_fewer(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = any_node(rng, proto)
    del node.input[rng.randrange(len(node.input) + 1) :]


def inputs_more(rng: random.Random, proto: onnx.ModelProto) -> None:
    any_node(rng, proto).input.extend(any_value(rng, proto) for _ in range(rng.choice((1, 2, 5))))


def outputs(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = any_node(rng, proto)
    if node.output and rng.random() < 0.7:
        node.output[rng.randrange(len(node.output))] = any_value(rng, proto)
    else:
        node.output.append(rng.choice(ODD_NAMES))


def cycle(rng: random.Random, proto: onnx.ModelProto) -> None:
    first, second = any_node(rng, proto), any_node(rng, proto)
    if first.input and second.output:
        first.input[0] = second.output[0]


def attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    with_some = [n for g in all_graphs(proto.graph) for n in g.node if n.attribute]
    if not with_some:
        return new_attribute(rng, proto)
    node = rng.choice(with_some)
    one = rng.choice(node.attribute)
    what = rng.randrange(4)
    if what == 0:
        node.attribute.remove(one)
    elif what == 1:
        one.type = rng.randrange(16) % 15
    elif what == 2:
        one.name = rng.choice(("axis", "perm", "group", "block_size", *ODD_NAMES))
    else:
        one.i, one.f = rng.choice(NUMBERS), rng.choice(FLOATS)
        one.ints[:] = [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]
    return None


def new_attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    number, several = rng.choice(NUMBERS), [rng.choice(NUMBERS) for _ in range(3)]
    name, value = rng.choice(
        [
            *((key, number) for key in ("axis", "group", "block_size", "output_dtype", "transB")),
            *((key, number) for key in ("allowzero", "precision", "saturate", "training_mode")),
            *((key, several) for key in ("perm", "pads", "strides", "dilations", "kernel_shape")),
            ("output_padding", several),
            ("alpha", rng.choice(FLOATS)),
            ("epsilon", rng.choice(FLOATS)),
            ("auto_pad", "NO"),
            ("no_such", "x"),
        ]
    )
    any_node(rng, proto).attribute.append(helper.make_attribute(name, value))


def bypass(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Read what a node reads, not what it makes."""
    graph = any_graph(rng, proto)
    inner = [node for node in graph.node if node.input and node.output]
    if not inner:
        return
    node = rng.choice(inner)
    for other in graph.node:
        for i, name in enumerate(other.input):
            if name == node.output[0] and other is not node:
                other.input[i] = node.input[0]


def inserted(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Put an operator between a node and the nodes that read it."""
    node = rng.choice(proto.graph.node) if proto.graph.node else proto.graph.node.add()
    if not node.output:
        return
    kind = rng.choice(("Identity", "Relu", "Neg", "Identity", "Transpose", "Flatten", "Squeeze"))
    old, new = node.output[0], f"{node.output[0]}_inserted"
    node.output[0] = new
    at = list(proto.graph.node).index(node) + 1
    proto.graph.node.insert(at, helper.make_node(kind, [new], [old]))
