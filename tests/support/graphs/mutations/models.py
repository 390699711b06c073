"""What belongs to the whole model: signatures, versions, functions."""

import random

import onnx
from onnx import helper

from tests.support.graphs.mutations.nodes import operator
from tests.support.graphs.mutations.picks import NUMBERS, ODD_NAMES, any_graph, any_value


def value_info(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = rng.choice(infos)
    what = rng.randrange(4)
    if what == 0:
        info.type.tensor_type.elem_type = rng.randrange(30)
    elif what == 1:
        info.type.tensor_type.shape.dim.add(dim_value=rng.choice(NUMBERS))
    elif what == 2:
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_value = rng.choice(NUMBERS)
    else:
        info.name = rng.choice(ODD_NAMES)


def signature(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    values = rng.choice((graph.input, graph.output))
    if values and rng.random() < 0.5:
        del values[rng.randrange(len(values))]
    else:
        size = [rng.choice(NUMBERS)]
        values.append(helper.make_tensor_value_info(any_value(rng, proto), rng.randrange(20), size))


def versions(rng: random.Random, proto: onnx.ModelProto) -> None:
    what = rng.randrange(4)
    if what == 0:
        proto.opset_import[0].version = rng.choice((*NUMBERS, 10, 12, 13, 21, 23, 25, 26, 99))
    elif what == 1:
        proto.ir_version = rng.choice((0, 1, 3, 4, 7, 99, 1 << 40))
    elif what == 2:
        proto.opset_import.add(domain=rng.choice(("", "ai.onnx", "x")), version=rng.randrange(30))
    else:
        del proto.opset_import[:]


def functions(rng: random.Random, proto: onnx.ModelProto) -> None:
    if not proto.functions:
        return operator(rng, proto)
    function = rng.choice(proto.functions)
    what = rng.randrange(5)
    if what == 0:
        proto.functions.append(function)
    elif what == 1:
        function.node[0].op_type, function.node[0].domain = function.name, function.domain
    elif what == 2:
        function.input.append("more")
    elif what == 3:
        function.output[0] = "a"
    else:
        function.opset_import[0].version = rng.choice((1, 12, 18, 99))
    return None


def nothing_left(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = any_graph(rng, proto)
    graph.ClearField(rng.choice(("node", "initializer", "input", "output", "name")))
