"""Damaged ONNX files: bytes flipped, cut or moved, and fields that say what no exporter would."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, W, X, model

Mutation = Callable[[random.Random, onnx.ModelProto], None]

_SCALAR = {"sw": np.float32(0.01), "zw": np.int8(0)}
_CONV = X + W.replace("= 1", "= 0") + "[conv] c = Conv <pads = [1, 1, 1, 1]> (xd, wd, b) "
_NORM = "[norm] y = BatchNormalization (c, b, b, b, v)"
_UP = X + W + "[up] y = ConvTranspose <group = 1, strides = [2, 2]> (xd, wd, b)"
_IF = (
    "s = Size (x) n = Constant <value = int64 {3}> () c = Greater (s, n) y = If (c) <"
    "then_branch = t () => (float[N, 2] p) { [inner] p = MatMul (xd, wd) }, "
    "else_branch = e () => (float[N, 2] q) { q = Add (m, m) }>"
)
_LOOP = (
    "n = Constant <value = int64 {2}> () c = Constant <value = bool {1}> () "
    "y = Loop (n, c, m) <body = l (int64 i, bool d, float[N, 2] v) => "
    "(bool e, float[N, 2] o) { e = Identity (d) o = Add (v, m) }>"
)
_PRODUCT = (
    X + "t = Transpose <perm = [1, 0]> (x) tq = QuantizeLinear (t, sx, zx) "
    "td = DequantizeLinear (tq, sx, zx) [mm] y = MatMul (xd, td)"
)
_RESHAPED = X + W + "r = Reshape (wd, shape) u = Transpose (r) [fc] y = MatMul (xd, u)"
_LOCAL = '<domain: "local", opset_import: ["" : 17]> f (a, b) => (c) { c = MatMul (a, b) }'
_STORED = (
    X + W + "bd = DequantizeLinear (bq, sb, zb) m = Transpose <perm = [1, 0]> (xd) "
    "r = Relu (m) n = Transpose <perm = [1, 0]> (r) [fc] y = Gemm (n, wd, bd)"
)
_COMPUTED = "c = Cast <to = 1> (d) sx = Mul (c, c) " + X + W + "[fc] y = MatMul (xd, wd)"
_DEPTHWISE = (
    X.replace("(x,", "<axis: int = 1> (x,").replace("(xq,", "<axis: int = 1> (xq,")
    + W.replace("= 1", "= 0")
    + "p = MaxPool <kernel_shape = [2, 2]> (xd) [conv] c = Conv <group = 2, pads = [1, 1, 1, 1]> "
    "(xd, wd, b) q = QuantizeLinear (c, so, zo) e = DequantizeLinear (q, so, zo) "
    "j = Concat <axis = 2> (e, e) vd = DequantizeLinear (v, so, zv) y = Conv (j, vd)"
)
_IMAGES = {"inputs": "float[N, 2, 5, 5] x", "outputs": "float[N, 2, H, V] y"}
_KERNEL = {"w": np.arange(-18, 18, dtype=np.int8).reshape(2, 2, 3, 3), "b": BIAS}

SOURCES: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "matmul": (lambda: model(MATMUL), (4, 3)),
    "gemm": (lambda: model(GEMM, b=BIAS, **_SCALAR), (4, 3)),
    "16 bits": (lambda: model(MATMUL, zx=np.int16(-7), opset=21), (4, 3)),
    "two activations": (lambda: model(_PRODUCT + W + " k = MatMul (xd, wd)"), (4, 3)),
    "conv": (
        lambda: model(_CONV + _NORM, v=np.ones(2, np.float32), **_IMAGES, **_KERNEL),
        (2, 2, 5, 5),
    ),
    "stored bias, moved input": (
        lambda: model(_STORED, bq=np.int8([9, -5]), sb=np.float32(0.1), zb=np.int8(3), **_SCALAR),
        (4, 3),
    ),
    "computed scale": (lambda: model(_COMPUTED, sx=None, d=np.float64(0.25), **_SCALAR), (4, 3)),
    "depthwise": (
        lambda: model(
            _DEPTHWISE,
            sx=np.float32([0.05, 0.01]),
            zx=np.uint8([0, 9]),
            w=_KERNEL["w"][:, :1],
            b=BIAS,
            so=np.float32(0.1),
            zo=np.uint8(7),
            v=np.arange(60, 66, dtype=np.uint8).reshape(3, 2, 1, 1),
            zv=np.uint8(200),
            **_IMAGES,
        ),
        (2, 2, 5, 5),
    ),
    "conv transpose": (lambda: model(_UP, **_IMAGES, **_KERNEL), (2, 2, 5, 5)),
    "if": (lambda: model(X + W + "[fc] m = MatMul (xd, wd) " + _IF, **_SCALAR), (4, 3)),
    "loop": (lambda: model(X + W + "[fc] m = MatMul (xd, wd) " + _LOOP, **_SCALAR), (4, 3)),
    "function": (lambda: model(X + W + "y = local.f (xd, wd)", functions=_LOCAL), (4, 3)),
    "reshaped": (
        lambda: model(
            _RESHAPED,
            w=np.ascontiguousarray(INTEGERS.T.reshape(1, 6)),
            shape=np.int64([2, 3]),
            **_SCALAR,
        ),
        (4, 3),
    ),
}

_INTEGERS = (0, 1, -1, 2, -2, 3, 4, 7, 77, -77, 1 << 31, -(1 << 31), (1 << 40) + 1, (1 << 63) - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
_NAMES = ("", "x", "y", "xd", "nothing", "../../x", "a/b", "a\nb", "é\u0000", "n" * 3000)
_PLACES = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "absent",
    "inter.onnx",
    "inter.data",
    "a/../../b",
    "/dev/zero",
    "C:\\x",
    "x\u0000y",
)
_OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "QuantizeLinear", "DequantizeLinear", "Relu"),
    *("Add", "Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Constant"),
    *("BatchNormalization", "If", "Loop", "Cast", "ConvInteger", "AscendQuant", "", "NoSuch"),
)
_SCOPES = ("[", "[" * 3000, "['a', 'b']", "{}", "1", "['a', ['b'], 3]", "\u0000")


def mutated(seed: int, folder: Any) -> tuple[bytes, str, tuple[int, ...]]:
    """Damage one of the models.

    Args:
        seed: says which, and how.
        folder: where external data is put, as inter.data.
    Returns:
        the bytes of the file, what was done, and the shape of the input of the whole model.
    """
    rng = random.Random(seed)
    name = rng.choice(list(SOURCES))
    make, shape = SOURCES[name]
    proto = make()
    if rng.random() < 0.15:
        _move_data(proto, folder)
    if rng.random() < 0.3:
        whole = proto.SerializeToString()
        how = rng.choice((_flip, _truncate, _remove, _insert, _repeat))
        return how(rng, whole), f"{name}: {how.__name__}", shape
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(MUTATIONS)
        change(rng, proto)
        done.append(change.__name__)
    return proto.SerializeToString(), f"{name}: {', '.join(done)}", shape


def _move_data(proto: onnx.ModelProto, folder: Any) -> None:
    offset, data = 0, b""
    for tensor in proto.graph.initializer:
        size = len(tensor.raw_data)
        data += tensor.raw_data
        _place(tensor, "inter.data", offset, size)
        offset += size
    (folder / "inter.data").write_bytes(data)


def _place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 20) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randrange(1, 20)) + data[start:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[: start + rng.randrange(1, 200)] + data[start:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _graph(rng: random.Random, proto: onnx.ModelProto) -> onnx.GraphProto:
    return rng.choice([proto.graph, *_graphs(proto.graph)])


def _node(rng: random.Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    nodes = [node for graph in _graphs(proto.graph) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    return rng.choice(nodes) if nodes else proto.graph.node.add(op_type="Relu")


def _tensor(rng: random.Random, proto: onnx.ModelProto) -> TensorProto:
    tensors = [tensor for graph in _graphs(proto.graph) for tensor in graph.initializer]
    nodes = [node for graph in _graphs(proto.graph) for node in graph.node]
    tensors += [a.t for node in nodes for a in node.attribute if a.type == AttributeProto.TENSOR]
    return rng.choice(tensors) if tensors else proto.graph.initializer.add(name="t")


def _value(rng: random.Random, proto: onnx.ModelProto) -> str:
    names = [name for graph in _graphs(proto.graph) for node in graph.node for name in node.output]
    names += [tensor.name for tensor in proto.graph.initializer]
    return rng.choice([*names, rng.choice(_NAMES)])


def operator(rng: random.Random, proto: onnx.ModelProto) -> None:
    _node(rng, proto).op_type = rng.choice(_OPERATORS)


def domain(rng: random.Random, proto: onnx.ModelProto) -> None:
    _node(rng, proto).domain = rng.choice(("ai.onnx", "local", "com.microsoft", "no.such"))


def node_name(rng: random.Random, proto: onnx.ModelProto) -> None:
    _node(rng, proto).name = rng.choice(_NAMES)


def scopes(rng: random.Random, proto: onnx.ModelProto) -> None:
    key = "pkg.torch.onnx.name_scopes"
    _node(rng, proto).metadata_props.add(key=key, value=rng.choice(_SCOPES))


def nodes_gone(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = _graph(rng, proto)
    if graph.node:
        del graph.node[rng.randrange(len(graph.node))]


def nodes_twice(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = _graph(rng, proto)
    if graph.node:
        graph.node.append(rng.choice(graph.node))


def nodes_out_of_order(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = _graph(rng, proto)
    nodes = list(graph.node)
    rng.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def reader(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if node.input:
        node.input[rng.randrange(len(node.input))] = _value(rng, proto)


def inputs_fewer(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    del node.input[rng.randrange(len(node.input) + 1) :]


def inputs_more(rng: random.Random, proto: onnx.ModelProto) -> None:
    _node(rng, proto).input.extend(_value(rng, proto) for _ in range(rng.choice((1, 2, 5))))


def outputs(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if node.output and rng.random() < 0.7:
        node.output[rng.randrange(len(node.output))] = _value(rng, proto)
    else:
        node.output.append(rng.choice(_NAMES))


def cycle(rng: random.Random, proto: onnx.ModelProto) -> None:
    first, second = _node(rng, proto), _node(rng, proto)
    if first.input and second.output:
        first.input[0] = second.output[0]


def attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    with_some = [n for g in _graphs(proto.graph) for n in g.node if n.attribute]
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
        one.name = rng.choice(("axis", "perm", "group", "block_size", *_NAMES))
    else:
        one.i, one.f = rng.choice(_INTEGERS), rng.choice(_FLOATS)
        one.ints[:] = [rng.choice(_INTEGERS) for _ in range(rng.randrange(5))]
    return None


def new_attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    number, several = rng.choice(_INTEGERS), [rng.choice(_INTEGERS) for _ in range(3)]
    name, value = rng.choice(
        [
            *((key, number) for key in ("axis", "group", "block_size", "output_dtype", "transB")),
            *((key, number) for key in ("allowzero", "precision", "saturate", "training_mode")),
            *((key, several) for key in ("perm", "pads", "strides", "dilations", "kernel_shape")),
            ("output_padding", several),
            ("alpha", rng.choice(_FLOATS)),
            ("epsilon", rng.choice(_FLOATS)),
            ("auto_pad", "NO"),
            ("no_such", "x"),
        ]
    )
    _node(rng, proto).attribute.append(helper.make_attribute(name, value))


def dimensions(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = _tensor(rng, proto)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_INTEGERS)
    else:
        tensor.dims.append(rng.choice(_INTEGERS))


def reshaped(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Another shape of as many elements, which no count of bytes can tell."""
    tensor = _tensor(rng, proto)
    size = int(np.prod([int(d) for d in tensor.dims]))
    options = [[size], [1, size], [size, 1], [1, 1, size], [size, 1, 1, 1], [1] * 9 + [size]]
    tensor.dims[:] = rng.choice(options)


def data_type(rng: random.Random, proto: onnx.ModelProto) -> None:
    _tensor(rng, proto).data_type = rng.choice([*range(30), 77, -1])


def retyped(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Another type of as many bytes."""
    tensor = _tensor(rng, proto)
    groups = ([1, 6, 12], [2, 3, 9, 17, 18, 19, 20], [4, 5, 10, 16], [7, 11, 13])
    options = next((group for group in groups if tensor.data_type in group), [1])
    tensor.data_type = rng.choice(options)


def data(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = _tensor(rng, proto)
    size = max(0, len(tensor.raw_data) + rng.choice((0, 0, -1, 1, -1000, 1000)))
    tensor.raw_data = rng.choice((rng.randbytes(size), b"\x00" * size, b"\xff" * size))


def numbers(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Other values of the same type and shape."""
    tensor = _tensor(rng, proto)
    if tensor.data_type in (1, 10, 11) and tensor.raw_data:
        array = np.full(tuple(tensor.dims), rng.choice(_FLOATS))
        with np.errstate(over="ignore", under="ignore"):
            array = array.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.raw_data = array.tobytes()
    else:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))


def scaled(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Numbers that may still make a model: other signs of integers, other sizes of floats."""
    tensor = _tensor(rng, proto)
    if tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, np.float32)
        with np.errstate(over="ignore", under="ignore"):
            tensor.raw_data = np.ldexp(array, rng.choice((-150, -20, -1, 3, 20, 120))).tobytes()
    elif tensor.data_type == TensorProto.INT8:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))


def bypass(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Read what a node reads, not what it makes."""
    graph = _graph(rng, proto)
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


def tensors(rng: random.Random, proto: onnx.ModelProto) -> None:
    initializers = proto.graph.initializer
    if not initializers:
        return
    what, one = rng.randrange(3), rng.choice(initializers)
    if what == 0:
        initializers.remove(one)
    elif what == 1:
        initializers.append(one)
    else:
        one.name = rng.choice((*_NAMES, _value(rng, proto)))


def elsewhere(rng: random.Random, proto: onnx.ModelProto) -> None:
    place, number = rng.choice(_PLACES), rng.choice((0, 0, 0, *_INTEGERS))
    _place(_tensor(rng, proto), place, number, rng.choice((0, 1, 4, 6, *_INTEGERS)))


def value_info(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = _graph(rng, proto)
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = rng.choice(infos)
    what = rng.randrange(4)
    if what == 0:
        info.type.tensor_type.elem_type = rng.randrange(30)
    elif what == 1:
        info.type.tensor_type.shape.dim.add(dim_value=rng.choice(_INTEGERS))
    elif what == 2:
        for dim in info.type.tensor_type.shape.dim:
            dim.dim_value = rng.choice(_INTEGERS)
    else:
        info.name = rng.choice(_NAMES)


def signature(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = _graph(rng, proto)
    values = rng.choice((graph.input, graph.output))
    if values and rng.random() < 0.5:
        del values[rng.randrange(len(values))]
    else:
        size = [rng.choice(_INTEGERS)]
        values.append(helper.make_tensor_value_info(_value(rng, proto), rng.randrange(20), size))


def versions(rng: random.Random, proto: onnx.ModelProto) -> None:
    what = rng.randrange(4)
    if what == 0:
        proto.opset_import[0].version = rng.choice((*_INTEGERS, 10, 12, 13, 21, 23, 25, 26, 99))
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
    graph = _graph(rng, proto)
    graph.ClearField(rng.choice(("node", "initializer", "input", "output", "name")))


# Those that leave valid files come twice and more: what is not valid never reaches the reader.
MUTATIONS: tuple[Mutation, ...] = (
    *(operator, domain, node_name, scopes, nodes_gone, nodes_twice, nodes_out_of_order, reader),
    *(inputs_fewer, inputs_more, outputs, cycle, attribute, new_attribute, dimensions, data_type),
    *(retyped, data, numbers, tensors, elsewhere, value_info, signature, versions, functions),
    *(nothing_left, attribute, attribute, new_attribute, new_attribute, retyped, retyped),
    *(scaled, scaled, scaled, bypass, bypass, inserted, inserted, inserted, reshaped, reshaped),
    *(node_name, scopes, value_info, reader, reader),
)
