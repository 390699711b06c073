"""Files whose sizes, depths or names would make a careless reader run for hours or out of memory.

    python -m tests.support.graphs.hostile_sizes FOLDER

converts each and prints a line: its name, and "converted" or the error's class and message. The
address space of the process is bounded, so that what allocates without bound ends in MemoryError.
"""

import re
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from bridge import ConversionError, convert_qat_model, explain
from tests.support.graphs.text import MATMUL, PER_TENSOR, W, X, model, save

MEMORY = 16 << 30
LOCAL = '<domain: "local", opset_import: ["" : 17, "local" : 1]> '
UP = X + "wd = DequantizeLinear (w, sw, zw) [fc] y = {} (xd, wd)"


def chain(op: str, start: str, count: int) -> tuple[str, str]:
    """Operators that read each other, and the name of the last one's output."""
    names = [start, *(f"{start}_{i}" for i in range(count))]
    nodes = (f"{new} = {op} ({old})" for old, new in pairwise(names))
    return " ".join(nodes) + " ", names[-1]


def chained(op: str, start: str, count: int) -> onnx.ModelProto:
    """MATMUL, with a chain after one of its values."""
    nodes, last = chain(op, start, count)
    body = MATMUL.replace("y =", "m =") + "y = Identity (m)"
    place = body.index("[fc]") if start != "m" else body.index("y =")
    tail = re.sub(rf"\b{start}([,)])", rf"{last}\1", body[place:])
    return model(body[:place] + nodes + tail)


def functions(count: int, calls: int) -> onnx.ModelProto:
    """Functions that call each other, the last one called by the model."""
    text = LOCAL + "f0 (a) => (b) { b = Neg (a) } "
    for i in range(1, count):
        inner = " ".join(f"t{k + 1} = local.f{i - 1} (t{k})" for k in range(calls))
        text += LOCAL + f"f{i} (t0) => (t{calls}) {{ {inner} }} "
    body = MATMUL.replace("y =", "m =") + f"y = local.f{count - 1} (m)"
    return model(body, functions=text)


def transposed(attributes: str, taps: int = 3) -> onnx.ModelProto:
    weight = np.ones((1, 1, taps), np.int8)
    shapes = {"inputs": "float[N, 1, 3] x", "outputs": "float[N, 1, K] y"}
    return model(UP.format(f"ConvTranspose <{attributes}>"), w=weight, **PER_TENSOR, **shapes)


def volume(taps: int) -> onnx.ModelProto:
    """A 3-D convolution whose kernel is long in depth, before a quantizer."""
    body = UP.format("Conv").replace("y =", "m =")
    body += " q = QuantizeLinear (m, sx, zx) y = DequantizeLinear (q, sx, zx)"
    shapes = {"inputs": "float[N, 1, D, 3, 3] x", "outputs": "float[N, 1, E, 3, 3] y"}
    return model(body, w=np.ones((1, 1, taps, 1, 1), np.int8), **PER_TENSOR, **shapes)


def scoped(value: str) -> onnx.ModelProto:
    proto = model(MATMUL)
    proto.graph.node[-1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
    return proto


def named(name: str) -> onnx.ModelProto:
    proto = model(MATMUL)
    proto.graph.node[-1].name = name
    return proto


def doubled() -> onnx.ModelProto:
    """A value that is joined to itself again and again: 2^60 of them."""
    joins = (f"c{i + 1} = Concat <axis = 1> (c{i}, c{i})" for i in range(60))
    return model(X.replace("xd =", "c0 =") + W + " ".join(joins) + " [fc] y = MatMul (c60, wd)")


def numbered() -> onnx.ModelProto:
    """Names that the second, third, ... use of another name would get."""
    proto = model(X + W + " ".join(f"m{i} = MatMul (xd, wd)" for i in range(400)) + "y = Neg (m0)")
    for i, node in enumerate(node for node in proto.graph.node if node.op_type == "MatMul"):
        node.name = f"fc#{i}" if i % 2 else "fc"
    return proto


LONG = 1 << 62
CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "functions that double 30 times": lambda: functions(30, 2),
    "functions 3,000 deep": lambda: functions(3000, 1),
    "2,000 Identity after a weight": lambda: chained("Identity", "wd", 2000),
    "2,000 Identity after an input": lambda: chained("Identity", "xd", 2000),
    "2,000 Identity after a layer": lambda: chained("Identity", "m", 2000),
    "2,000 Flatten after a layer": lambda: chained("Flatten", "m", 2000),
    "2,000 Relu after a layer": lambda: chained("Relu", "m", 2000),
    "kernel 20,000 with stride 20,000": lambda: transposed("strides = [20000]", 20_000),
    "a stride of 2^62": lambda: transposed(f"strides = [{LONG}]"),
    "a dilation of 10^9": lambda: transposed("dilations = [1000000000], strides = [7]"),
    "an output_padding of 10^9": lambda: transposed(
        "output_padding = [1000000000], strides = [2], dilations = [2]"
    ),
    "a 3-D kernel of 20,000 planes": lambda: volume(20_000),
    "a group of 2^63 - 1": lambda: transposed(f"group = {2 * LONG - 1}"),
    "output_padding and strides of several lengths": lambda: transposed(
        "output_padding = [1, 1], strides = [2]"
    ),
    "dimensions of 2^62": lambda: model(
        MATMUL, inputs=f"float[{LONG}, 3] x", outputs=f"float[{LONG}, 2] y"
    ),
    "dimensions whose product is 2^124": lambda: model(
        X + "r = Reshape (xd, s)" + W + "[fc] y = MatMul (r, wd)",
        inputs=f"float[{LONG}, {LONG}, 3] x",
        s=np.int64([-1, 3]),
    ),
    "a weight expanded to 20 GB": lambda: model(
        X + "e = Expand (w, s)" + W.replace("(w,", "(e,") + "[fc] y = MatMul (xd, wd)",
        w=np.int8([[1, 1]]),
        s=np.int64([10**10, 2]),
    ),
    "a scale of 2^62 numbers": lambda: model(
        X + "e = ConstantOfShape (s) wd = DequantizeLinear <axis = 1> (w, e) y = MatMul (xd, wd)",
        s=np.int64([LONG]),
    ),
    "a product of 2^36 scales": lambda: model(
        X + "e = Mul (a, b) wd = DequantizeLinear <axis = 1> (w, e) y = MatMul (xd, wd)",
        a=np.ones((1 << 18, 1), np.float32),
        b=np.ones((1, 1 << 18), np.float32),
    ),
    "scopes nested 10^6 deep": lambda: scoped("[" * 1_000_000),
    "scopes nested 190 deep": lambda: scoped("[" * 190 + "]" * 190),
    "2 million scopes": lambda: scoped("[" + "'a', " * 2_000_000 + "'b']"),
    "scopes that are a sum": lambda: scoped("1" + "+1" * 200_000),
    "a scope of escapes": lambda: scoped(r"['a\N{', '\x', '\u12', 'b']"),
    "a name of 10^5 parts": lambda: named("/" + "a/" * 100_000 + "MatMul"),
    "names that grow": lambda: named(
        "/" + "".join("a" + ".a" * i + "/" for i in range(1000)) + "MatMul"
    ),
    "names that are numbered already": numbered,
    "a value joined to itself 60 times": doubled,
}


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name, make in CASES.items():
        print(name, end=": ", flush=True)
        source = save(make(), folder)
        try:
            explain(convert_qat_model(source, folder / "net"))
        except ConversionError as error:
            print("ConversionError", str(error)[:300].replace("\n", " "), flush=True)
        except BaseException as error:
            print(type(error).__name__, str(error)[:300].replace("\n", " "), flush=True)
        else:
            print("converted", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
