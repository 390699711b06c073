"""Models that converters get wrong: each is converted right, or refused by name.

One table. A row is a model and what becomes of it for each target:

    Right    fake-quant and deploy have the bits of the sums in NumPy integers, at every
             optimization level of ONNX Runtime; what is left in float is named, with the reason
    Refused  the error, which names the node, layer or file; nothing is written
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bridge import ConversionError, convert_qat_model
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import (
    BIAS,
    GEMM,
    INTEGERS,
    MATMUL,
    PER_TENSOR,
    SW,
    SX,
    ZX,
    W,
    X,
    batch,
    codes,
    model,
    rescaled,
    save,
    with_inputs,
)
from tests.support.runtime import LEVELS, run_at

Array = Any
BOTH = ("ort", "ascend")
ONLY = r"inter\.onnx has no quantized layer \(\w+ 'fc': "  # nothing else could be converted
NOTHING: Mapping[str, str] = MappingProxyType({})


class Right(NamedTuple):
    make: Callable[[], onnx.ModelProto]
    expected: Callable[[Array], Array]
    targets: tuple[str, ...] = BOTH
    left: Mapping[str, str] = NOTHING
    layers: tuple[str, ...] = ("fc",)
    x: Array | None = None
    checked: bool = True  # whether onnx.checker takes the source, and so what is made of it
    more: Mapping[str, Any] = MappingProxyType({})


class Refused(NamedTuple):
    make: Callable[[], onnx.ModelProto]
    message: str
    targets: tuple[str, ...] = BOTH
    error: type[Exception] = ConversionError


ONE = np.float32(0.01)  # a weight scale that both targets take
EYE = np.eye(2, dtype=np.float32)
# Scales with which float operators are exact too, in any order of their sums.
EXACT = {"sx": np.float32(2**-4), "sw": np.float32(2**-7)}


def whole(body: str = MATMUL, **more: Any) -> onnx.ModelProto:
    return model(body, **(PER_TENSOR | more))


def product(
    x: Array,
    *,
    sx: Array = SX,
    zx: Array = ZX,
    sw: Array = ONE,
    bias: Array | None = None,
    weight: Array = INTEGERS,
) -> Array:
    """What the layer of `whole` computes."""
    with np.errstate(over="ignore", under="ignore"):
        return rescaled(codes(x, sx, zx) @ weight.astype(np.int64), sx, sw, bias)


def edited(proto: onnx.ModelProto, change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    change(proto)
    return proto


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = (one for one in proto.graph.node if one.name == name)
    return found


def tensor(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (found,) = (one for one in proto.graph.initializer if one.name == name)
    return found


def chain(inputs: int, weight: int) -> onnx.ModelProto:
    """A product over many inputs: unsigned, so that each reaches 255."""
    return whole(
        inputs=f"float[N, {inputs}] x",
        outputs="float[N, 1] y",
        sx=np.float32(1),
        zx=np.uint8(0),
        w=np.full((inputs, 1), weight, np.int8),
    )


LARGEST = np.zeros((1, 66_311), np.float32)
LARGEST[0, ::1000] = 255  # sums far below 2^24: only the bound on them is large

SUMS = {
    "a bias beyond int32": Refused(
        lambda: whole(GEMM, b=np.array([0, 2e6], np.float32)),
        ONLY + r"its bias / \(scale_x \* scale_w\) must fit int32, got up to 4e\+09; ",
    ),
    "the largest bias": Right(
        lambda: whole(GEMM, b=np.float32([0, 2**30]) * (SX * ONE)),
        lambda x: product(x, bias=np.float32([0, 2**30]) * (SX * ONE)),
    ),
    "the longest sums: 66,311 x 255 x 127": Right(
        lambda: chain(66_311, 127),
        lambda x: product(x, sx=np.float32(1), zx=np.uint8(0), weight=np.full((66_311, 1), 127)),
        x=LARGEST,
    ),
    "sums beyond int32: 66,312 x 255 x 127": Refused(
        lambda: chain(66_312, 127),
        ONLY + r"its sums can reach 2147514120, beyond the accumulator's 2147483647; ",
    ),
}

SCALES: dict[str, Right | Refused] = {
    f"a scale of {what} that is {value}": Refused(
        lambda which=which, value=value: whole(**{which: np.float32(value)}),
        ONLY + rf"the scale of DequantizeLinear 'dequantize_{what}' must be positive and finite, "
        rf"got \[{printed}\]\)$",
    )
    for which, what in (("sx", "x"), ("sw", "w"))
    for value, printed in ((0.0, r"0\."), (-0.5, r"-0\.5"), (np.inf, "inf"), (np.nan, "nan"))
}
SCALES |= {
    "one bad scale among good ones": Refused(
        lambda: model(MATMUL, sw=np.float32([0.1, np.nan])), "'dequantize_w' must be positive"
    ),
    "a float16 scale of x": Refused(
        lambda: whole(
            "h = Cast <to = 10> (x)" + MATMUL.replace("(x,", "(h,"), sx=np.float16(0.05), opset=21
        ),
        "the scale of 'dequantize_x' is float16, not float32",
    ),
    "a float16 scale of w": Refused(
        lambda: whole(
            X + W + "[fc] y = MatMul (xd, v)".replace("v)", "f)") + "v = Cast <to = 1> (wd)",
            sw=np.float16(0.01),
            f=np.ones((3, 2), np.float32),
        ),
        r"no quantized layer \(MatMul 'fc': its weight is not quantized\)$",
    ),
    "a subnormal scale of x": Right(
        lambda: whole(sx=np.float32(1e-40)),
        lambda x: product(x, sx=np.float32(1e-40)),
        targets=("ort",),
    ),
    "a subnormal scale of x without a reciprocal": Refused(
        lambda: whole(sx=np.float32(1e-40)),
        r"^layer 'fc': target 'ascend' multiplies by 1 / scale, which is beyond float32 for",
        targets=("ascend",),
    ),
    "a subnormal scale of w": Right(
        lambda: whole(sw=np.float32(1e-40)), lambda x: product(x, sw=np.float32(1e-40))
    ),
    "scales whose product is 0": Refused(
        lambda: whole(sx=np.float32(1e-30), sw=np.float32(1e-30)),
        ONLY + r"scale_x \* scale_w must be positive and finite in float32, got 1e-30 \* 1e-",
    ),
    "scales whose product is infinite": Refused(
        lambda: whole(sx=np.float32(1e30), sw=np.float32(1e30)),
        ONLY + r"scale_x \* scale_w must be positive and finite in float32, got 1e\+30 \* 1",
    ),
    "scales of two inputs whose product is infinite": Refused(
        lambda: whole(
            X + "t = Transpose (x) tq = QuantizeLinear (t, sx, zx) "
            "td = DequantizeLinear (tq, sx, zx) [mm] y = MatMul (xd, td)",
            sx=np.float32(1e30),
            outputs="float[N, N] y",
        ),
        ONLY.replace("fc", "mm")
        + r"scale_x \* scale_w must be positive and finite in float32, got 1e\+30 \* 1",
    ),
    "a scale with a dimension": Right(
        lambda: whole(
            sx=SX.reshape(1), zx=ZX.reshape(1), sw=ONE.reshape(1), zw=np.zeros(1, np.int8)
        ),
        product,
    ),
    "two zero points for one scale": Refused(
        lambda: whole(zx=np.int8([1, 2])),
        ONLY + r"DequantizeLinear 'dequantize_x' has 1 scales but 2 zero points\)$",
    ),
}

TWICE = X + W + "[a] m = MatMul (xd, wd) [b] n = MatMul (xd, wd) y = Add (m, n)"
AGAIN = "vd = DequantizeLinear (w, sw, zw)"
SHARED = {
    "a dequantized weight that two layers read": Right(
        lambda: whole(TWICE), lambda x: 2 * product(x), targets=("ort",), layers=("a", "b")
    ),
    "the same for ascend": Refused(
        lambda: whole(TWICE), "^layers 'a' and 'b' share a weight, which", targets=("ascend",)
    ),
    "a weight that two nodes dequantize": Right(
        lambda: whole(
            X + W + AGAIN + "[a] m = MatMul (xd, wd) [b] n = MatMul (xd, vd) y = Add (m, n)"
        ),
        lambda x: 2 * product(x),
        targets=("ort",),
        layers=("a", "b"),
    ),
    "a weight that a float operator reads too": Right(
        lambda: whole(
            X + W + "[fc] m = MatMul (xd, wd) s = ReduceMax <keepdims = 0> (wd) y = Add (m, s)"
        ),
        lambda x: product(x) + np.float32(127) * ONE,
    ),
}

TIED = "layers 'fc' and 'inner' share a weight, which target 'ascend' does not allow"
YES = "size = Size (x) none = Constant <value = int64 {0}> () yes = Greater (size, none) "
EMPTY = "no = Constant <value = bool {0}> () "


def branch(then: str) -> str:
    return (
        YES + "y = If (yes) <then_branch = t () => (float[N, 2] on_yes) {" + then + "}, "
        "else_branch = e () => (float[N, 2] on_no) { on_no = Neg (m) }>"
    )


LAYER_M = X + W + "[fc] m = MatMul (xd, wd) "
LOOP = (
    "trips = Constant <value = int64 {2}> () on = Constant <value = bool {1}> () "
    "y = Loop (trips, on, m) <body = l (int64 i, bool c, float[N, 2] v) => "
    "(bool d, float[N, 2] o) { d = Identity (c) [inner] p = MatMul (xd, wd) "
    "q = Add (p, m) o = Add (v, q) }>"
)
SCAN = (
    "start = Constant <value = float {1.0}> () "
    "last, y = Scan (start, m) <num_scan_inputs = 1, body = s (float a, float[2] row) => "
    "(float b, float[2] o) { b = Add (a, a) o = Add (row, f) }>"
)


def looped(x: Array) -> Array:
    """What LOOP makes of the layer: two trips, each adding the products of two layers."""
    y = product(x, **EXACT)
    inner = (codes(x, EXACT["sx"], ZX) @ INTEGERS.astype(np.int64)).astype(np.float32) * np.float32(
        2**-11
    )
    return (y + (inner + y)) + (inner + y)


NORM = "on_yes = BatchNormalization <epsilon = 0.0> (m, two, zero, zero, one)"
SUBGRAPHS = {
    "If: a branch reads a layer's output": Right(
        lambda: whole(LAYER_M + branch("on_yes = Add (m, m)")), lambda x: 2 * product(x)
    ),
    "If: a branch adds a constant to a layer's output": Right(
        lambda: whole(
            LAYER_M + branch("on_yes = Add (m, b)").replace("Neg (m)", "Neg (f)"), b=BIAS, f=EYE
        ),
        lambda x: product(x) + BIAS,
    ),
    "If: a branch normalizes a layer's output": Right(
        lambda: whole(
            LAYER_M + branch(NORM).replace("Neg (m)", "Neg (f)"),
            two=np.full(2, 2, np.float32),
            zero=np.zeros(2, np.float32),
            one=np.ones(2, np.float32),
            f=EYE,
        ),
        lambda x: 2 * product(x),
        more={"fold_batch_norm": True},
    ),
    "If: a quantized layer in a branch": Right(
        lambda: whole(LAYER_M + branch("[inner] p = MatMul (xd, wd) on_yes = Sub (p, p)")),
        lambda x: 0 * np.abs(product(x)),
        layers=("fc", "inner"),
        targets=("ort",),
    ),
    "If: a quantized layer in a branch, of a layer's weight": Refused(
        lambda: whole(LAYER_M + branch("[inner] p = MatMul (xd, wd) on_yes = Sub (p, p)")),
        TIED,
        targets=("ascend",),
    ),
    "If: a quantized layer in a branch, of its own weight": Right(
        lambda: whole(
            LAYER_M
            + "v = DequantizeLinear (k, sw, zw) "
            + branch("[inner] p = MatMul (xd, v) on_yes = Sub (p, p)"),
            k=INTEGERS[::-1].copy(),
        ),
        lambda x: 0 * np.abs(product(x)),
        layers=("fc", "inner"),
    ),
    "If: a branch with a pair and a weight of its own": Right(
        lambda: whole(
            LAYER_M
            + branch(
                "v = Constant <value = int8[2] {1, -1}> () vd = DequantizeLinear (v, sw, zw) "
                "on_yes = Add (m, vd)"
            )
        ),
        lambda x: product(x) + np.float32([0.01, -0.01]),
    ),
    "If: nothing but a layer in a branch": Right(
        lambda: whole(X + W + "m = Neg (f)" + branch("[inner] on_yes = MatMul (xd, wd)"), f=EYE),
        product,
        layers=("inner",),
    ),
    "Loop: the body reads a layer's output, its weight and its pair": Right(
        lambda: whole(LAYER_M + LOOP, **EXACT),
        looped,
        layers=("fc", "inner"),
        targets=("ort",),
    ),
    "Loop: the body reads a layer's weight, for Ascend": Refused(
        lambda: whole(LAYER_M + LOOP, **EXACT), TIED, targets=("ascend",)
    ),
    "Scan: a layer's output is scanned": Right(
        lambda: whole(LAYER_M + SCAN, f=BIAS), lambda x: product(x) + BIAS
    ),
}

LOCAL = '<domain: "local", opset_import: ["" : 17, "local" : 1]> '
LINEAR = (
    LOCAL + "linear (a, w, s, z) => (c) { d = DequantizeLinear (w, s, z) [mm] c = MatMul (a, d) }"
)
FUNCTIONS = {
    "a function that is a layer": Right(
        lambda: whole(X + "[fc] y = local.linear (xd, w, sw, zw)", functions=LINEAR),
        product,
        layers=("mm",),
    ),
    "a function in a function": Right(
        lambda: whole(
            X + "[fc] y = local.outer (xd, w, sw, zw)",
            functions=LINEAR
            + LOCAL
            + "outer (a, w, s, z) => (c) { c = local.linear (a, w, s, z) }",
        ),
        product,
        layers=("mm",),
    ),
    "a function that calls itself": Refused(
        lambda: whole(
            MATMUL.replace("y =", "m =") + "y = local.f (m)",
            functions=LOCAL + "f (a) => (b) { b = local.f (a) }",
        ),
        r"inter\.onnx is not a valid ONNX model: Cycle detected in .* local::f -> local::f",
    ),
    "a function of another opset": Refused(
        lambda: whole(
            MATMUL.replace("y =", "m =") + "y = local.f (m)",
            functions='<domain: "local", opset_import: ["" : 18]> f (a) => (b) { b = Neg (a) }',
        ),
        r"inter\.onnx",
    ),
}

VERSIONS: dict[str, Right | Refused] = {
    f"opset {opset}": Refused(
        lambda opset=opset: edited(
            whole(), lambda proto: setattr(proto.opset_import[0], "version", opset)
        ),
        rf"inter\.onnx: opset must be 13 or later, got {opset}$",
    )
    for opset in (1, 10, 11, 12)
}
VERSIONS |= {
    f"opset {opset}": Right(lambda opset=opset: whole(opset=opset), product)
    for opset in (13, 19, 21, 23)
}

TWO = (
    LAYER_M + "mq = QuantizeLinear (m, sx, zx) md = DequantizeLinear (mq, sx, zx) "
    "vd = DequantizeLinear (v, sw, zw) [g] y = Gemm (md, vd, b)"
)
V = np.int8([[3, -4], [100, 7]])


def two_layers(x: Array) -> Array:
    second = codes(product(x, **EXACT), EXACT["sx"], ZX) @ V.astype(np.int64)
    return second.astype(np.float32) * np.float32(2**-11) + np.float32(1)


SETTABLE = "its bias is not constant: 'b' is an input of the model, which callers may set"
DEFAULTS = {
    "initializers that are inputs, IR 3": Right(
        lambda: with_inputs(whole(), ir_version=3), product
    ),
    "every initializer a default of an input, IR 8": Refused(
        lambda: with_inputs(whole(), ir_version=8),
        "the scale of DequantizeLinear 'dequantize_x' is not "
        "constant: 'sx' is an input of the model, which callers may set",
    ),
    "a bias that is a default of an input, IR 4": Right(
        lambda: with_inputs(whole(TWO, v=V, b=np.ones(2, np.float32), **EXACT), "b", ir_version=4),
        two_layers,
        left={"g": SETTABLE},
    ),
    "a weight that is a default of an input, IR 4": Refused(
        lambda: with_inputs(whole(GEMM, b=BIAS), "w", ir_version=4),
        r"no quantized layer \(Gemm 'fc': its weight is not constant: 'w' is an input of the "
        r"model, which callers may set\)$",
    ),
    "an input without a reader": Right(
        lambda: edited(
            with_inputs(whole(MATMUL + "u = Neg (v)", v=V.astype(np.float32)), "v", ir_version=8),
            lambda proto: None,
        ),
        product,
    ),
}

OTHER = MATMUL.replace("(xq, sx, zx)", "(xq, so, zo)")


def apart(x: Array) -> Array:
    """Quantized with SX and ZX, dequantized with 0.02 and 3."""
    integers = codes(x, SX, ZX) + int(ZX) - 3
    return rescaled(integers @ INTEGERS.astype(np.int64), np.float32(0.02), ONE)


NOT_ALIKE = "^layer 'fc': target 'ascend' needs one scale and zero point per pair, but 'quantize_x'"
PAIRS = {
    "a pair of two scales and zero points": Right(
        lambda: whole(OTHER, so=np.float32(0.02), zo=np.int8(3)), apart, targets=("ort",)
    ),
    "a pair of two scales": Refused(
        lambda: whole(OTHER, so=np.float32(0.02), zo=ZX), NOT_ALIKE, targets=("ascend",)
    ),
    "a pair of two zero points": Refused(
        lambda: whole(OTHER, so=SX, zo=np.int8(3)), NOT_ALIKE, targets=("ascend",)
    ),
    "a pair of two types": Refused(
        lambda: whole(OTHER, so=SX, zo=np.uint8(3)),
        ONLY
        + r"the codes of DequantizeLinear 'dequantize_x' are int8, but the zero point is uint8\)$",
    ),
    "a pair around a float operator, of two scales": Refused(
        lambda: whole(
            MATMUL.replace("y =", "m =") + "mq = QuantizeLinear (m, sx, zx) "
            "[back] md = DequantizeLinear (mq, so, zx) y = Relu (md)",
            so=np.float32(0.02),
        ),
        "^layer 'back': target 'ascend' needs one scale and zero point per pair",
        targets=("ascend",),
    ),
    "a quantizer with a scale a column": Right(
        lambda: whole(
            MATMUL.replace("QuantizeLinear (x, sx, zx)", "QuantizeLinear (x, sc, zc)", 1),
            sc=np.float32([0.02, 0.05, 0.1]),
            zc=np.full(3, ZX),
        ),
        lambda x: rescaled(
            np.hstack(
                [codes(x[:, [i]], np.float32(s), ZX) for i, s in enumerate((0.02, 0.05, 0.1))]
            )
            @ INTEGERS.astype(np.int64),
            SX,
            ONE,
        ),
        targets=("ort",),
    ),
    "Q without DQ, an output": Right(
        lambda: whole(MATMUL, outputs="float[N, 2] y, int8[N, 3] xq"), product
    ),
    "Q without DQ, before a Cast": Right(
        lambda: whole(
            MATMUL.replace("y =", "m =") + "mq = QuantizeLinear (m, sx, zx) y = Cast <to = 1> (mq)"
        ),
        lambda x: (codes(product(x), SX, ZX) + int(ZX)).astype(np.float32),
    ),
    "DQ without Q": Right(
        lambda: whole(MATMUL[MATMUL.index("[dequantize_x]") :], inputs="int8[N, 3] xq"),
        lambda x: rescaled((x.astype(np.int64) - int(ZX)) @ INTEGERS.astype(np.int64), SX, ONE),
        targets=("ort",),
        x=batch().clip(-8, 8).round().astype(np.int8),
    ),
    "DQ without Q, for ascend": Refused(
        lambda: whole(MATMUL[MATMUL.index("[dequantize_x]") :], inputs="int8[N, 3] xq"),
        "needs a QuantizeLinear just before the layer, got the graph input$",
        targets=("ascend",),
    ),
}


def without_zero_point(*names: str, **arrays: Array) -> onnx.ModelProto:
    def change(proto: onnx.ModelProto) -> None:
        for name in names:
            del node(proto, name).input[2:]

    return edited(whole(**arrays), change)


OPTIONAL = {
    "no zero point anywhere": Right(
        lambda: without_zero_point("quantize_x", "dequantize_x", "dequantize_w"),
        lambda x: product(x, zx=np.uint8(0)),
    ),
    "a zero point of the quantizer only": Right(
        lambda: without_zero_point("dequantize_x", zx=np.int8(0)),
        lambda x: product(x, zx=np.int8(0)),
    ),
    "a zero point of the dequantizer only": Right(
        lambda: without_zero_point("quantize_x", zx=np.uint8(9)),
        lambda x: rescaled((codes(x, SX, np.uint8(0)) - 9) @ INTEGERS.astype(np.int64), SX, ONE),
        targets=("ort",),
    ),
    "an empty name for a zero point": Right(
        lambda: edited(whole(), lambda proto: node(proto, "dequantize_w").input.__setitem__(2, "")),
        product,
    ),
    "an empty name for a bias": Right(
        lambda: edited(
            whole(GEMM, b=BIAS), lambda proto: node(proto, "fc").input.__setitem__(2, "")
        ),
        product,
    ),
    "no bias": Right(
        lambda: edited(whole(GEMM, b=BIAS), lambda proto: node(proto, "fc").input.pop()), product
    ),
    "no weight": Refused(
        lambda: edited(whole(), lambda proto: node(proto, "fc").input.pop()),
        r"inter\.onnx is not a valid ONNX model: Node\(fc\).* has input size 1 not in range",
    ),
}

NARROW = {"inputs": "float[N, 3] x", "outputs": "float[N, 2] y, float[N, 0] e"}
SHAPES = {
    "a batch of none": Right(whole, product, x=np.zeros((0, 3), np.float32)),
    "a weight without outputs": Right(
        lambda: whole(
            MATMUL + "vd = DequantizeLinear (v, sw, zw) [g] e = MatMul (xd, vd)",
            v=np.zeros((3, 0), np.int8),
            **NARROW,
        ),
        product,
        left={"g": "its weight has no elements, its shape is (3, 0)"},
    ),
    "a weight without inputs": Refused(
        lambda: whole(inputs="float[N, 0] x", w=np.zeros((0, 2), np.int8)),
        r"no quantized layer \(MatMul 'fc': its weight has no elements, its shape is \(0, 2\)\)$",
    ),
    "channels that do not divide into groups": Refused(
        lambda: whole(
            X + W + "[fc] y = ConvTranspose <group = 2> (xd, wd)",
            inputs="float[N, 3, 4] x",
            outputs="float[N, 2, 4] y",
            w=np.ones((3, 1, 1), np.int8),
        ),
        ONLY + r"a weight of shape \(3, 1, 1\) does not fit ConvTranspose with group = 2\)$",
    ),
    "a matrix as the weight of a convolution": Refused(
        lambda: whole(X + W + "[fc] y = Conv (xd, wd)"),
        ONLY + r"a weight of shape \(3, 2\) does not fit Conv with group = 1\)$",
    ),
    "a shape that does not fit": Refused(
        lambda: whole(
            X + W + "[r] v = Reshape (wd, s) [fc] y = MatMul (xd, v)", s=np.int64([4, 2])
        ),
        r"^Reshape 'r' does not fit its input of shape \(3, 2\): cannot reshape",
    ),
}


def axis(value: int, body: str = MATMUL, **arrays: Array) -> onnx.ModelProto:
    arrays = {"sw": SW, "zw": np.zeros(2, np.int8)} | arrays
    return model(body.replace("axis: int = 1", f"axis = {value}"), **arrays)


AXES = {
    "axis 1": Right(lambda: axis(1), lambda x: product(x, sw=SW), targets=("ort",)),
    "axis -1": Right(lambda: axis(-1), lambda x: product(x, sw=SW), targets=("ort",)),
    "axis -1 of a convolution's (out, in, 1), transposed": Right(
        lambda: axis(
            -2,
            X + W + "v = Transpose <perm = [1, 0]> (wd) [fc] y = MatMul (xd, v)",
            w=np.ascontiguousarray(INTEGERS.T),
        ),
        lambda x: product(x, sw=SW),
        targets=("ort",),
    ),
    "axis -3, where there are two": Refused(
        lambda: axis(-3),
        ONLY + r"DequantizeLinear 'dequantize_w' has 2 scales on axis -3 of shape \(3, 2\)\)$",
    ),
    "axis 2, where there are two": Refused(
        lambda: axis(2), r"'dequantize_w' has 2 scales on axis 2 of shape \(3, 2\)\)$"
    ),
    "an axis of another size": Refused(
        lambda: axis(0), r"'dequantize_w' has 2 scales on axis 0 of shape \(3, 2\)\)$"
    ),
    "a quantizer of the weight with a negative axis": Right(
        lambda: axis(
            -1,
            X
            + "wq = QuantizeLinear <axis = -1> (f, sw, zw)"
            + W.replace("(w,", "(wq,")
            + "[fc] y = MatMul (xd, wd)",
            f=INTEGERS.astype(np.float32) * SW,
        ),
        lambda x: product(x, sw=SW),
        targets=("ort",),
    ),
    "a weight in blocks": Refused(
        lambda: whole(
            MATMUL.replace("axis: int = 1", "axis = 0, block_size = 3"),
            sw=SW.reshape(1, 2),
            zw=np.zeros((1, 2), np.int8),
            opset=21,
        ),
        r"no quantized layer \(MatMul 'fc': its weight is quantized in blocks\)$",
    ),
    "an input in blocks": Refused(
        lambda: whole(
            MATMUL.replace("QuantizeLinear (x,", "QuantizeLinear <block_size = 3> (x,").replace(
                "DequantizeLinear (xq,", "DequantizeLinear <block_size = 3> (xq,"
            ),
            inputs="float[1, 3] x",
            outputs="float[1, 2] y",
            sx=SX.reshape(1, 1),
            zx=ZX.reshape(1, 1),
            opset=21,
        ),
        r"no quantized layer \(MatMul 'fc': its input is not quantized per tensor\)$",
    ),
}

DOUBLED = (
    X + W + AGAIN.replace("(w,", "(v,") + AGAIN.replace("vd", "ud").replace("(w,", "(u,")
    + "[fc] m = MatMul (xd, wd) [second] n = MatMul (xd, vd) [fc] o = MatMul (xd, ud) "
    "p = Add (m, n) y = Add (p, o)"
)  # fmt: skip
NAMES = {
    "one name for two nodes": Right(
        lambda: whole(
            X
            + W
            + "[fc] m = MatMul (xd, wd) "
            + AGAIN.replace("(w,", "(v,")
            + "[fc] n = MatMul (xd, vd) y = Add (m, n)",
            v=-INTEGERS.clip(-127),
        ),
        lambda x: product(x) + product(x, weight=-INTEGERS.clip(-127)),
        layers=("fc", "fc#2"),
    ),
    "a node that has the name a second one would get": Right(
        lambda: edited(
            whole(DOUBLED, v=-INTEGERS.clip(-127), u=INTEGERS // 2),
            lambda proto: setattr(node(proto, "second"), "name", "fc#2"),
        ),
        lambda x: (
            (product(x) + product(x, weight=-INTEGERS.clip(-127)))
            + product(x, weight=INTEGERS // 2)
        ),
        layers=("fc", "fc#2", "fc#3"),
    ),
    "one name for two initializers": Refused(
        lambda: edited(whole(), lambda proto: proto.graph.initializer.append(tensor(proto, "w"))),
        r"inter\.onnx is not a valid ONNX model: w initializer name is not unique",
    ),
    "one name for two values": Refused(
        lambda: edited(
            whole(), lambda proto: node(proto, "dequantize_w").output.__setitem__(0, "xd")
        ),
        r"inter\.onnx is not a readable ONNX model: .*'xd' is redeclared",
    ),
    "values that have the names of those the converter writes": Right(
        lambda: edited(
            whole(MATMUL.replace("y =", "m =") + "[fc] n = Neg (m) [other] y = Neg (n)"),
            lambda proto: [
                node(proto, "other").input.__setitem__(0, "fc/Cast_2_output"),
                proto.graph.node[-2].output.__setitem__(0, "fc/Cast_2_output"),
            ],
        ),
        product,
    ),
}


def reverse(nodes: Any) -> None:
    backwards = list(nodes)[::-1]
    del nodes[:]
    nodes.extend(backwards)


def elsewhere(location: str, **fields: int) -> Callable[[], onnx.ModelProto]:
    def change(proto: onnx.ModelProto) -> None:
        weight = tensor(proto, "w")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": location} | fields).items():
            weight.external_data.add(key=key, value=str(value))

    return lambda: edited(whole(), change)


FILES = {
    "data in a folder above": Refused(
        elsewhere("../../etc/passwd"),
        r"inter\.onnx: the data of 'w' lies outside the model's folder, at '\.\./\.\./etc/passwd'$",
    ),
    "data at an absolute path": Refused(
        elsewhere("/etc/passwd"),
        r"inter\.onnx: the data of 'w' lies outside the model's folder, at '/etc/passwd'$",
    ),
    "data that is missing": Refused(
        elsewhere("absent"),
        r"inter\.onnx: the data of 'w' is missing: there is no file .*absent$",
        error=FileNotFoundError,
    ),
    "data that ends too early": Refused(
        elsewhere("inter.onnx", offset=1 << 40),
        r"inter\.onnx: the data of 'w' needs 6 bytes from offset 1099511627776, but .* has \d+$",
    ),
    "data of another size": Refused(
        lambda: edited(whole(), lambda proto: tensor(proto, "w").dims.__setitem__(0, 1 << 60)),
        r"inter\.onnx is not a valid ONNX model: TensorProto \(tensor name: w\) raw_data size",
    ),
    "data at no path": Refused(
        elsewhere("a\0b"),
        r"inter\.onnx: the data of 'w' cannot be found: .*null byte",
    ),
    "no outputs": Refused(
        lambda: edited(whole(), lambda proto: proto.graph.ClearField("output")),
        r"inter\.onnx: the model has no outputs$",
    ),
    "numbers that are fewer than the shape says": Refused(
        lambda: edited(
            whole(MATMUL, b=BIAS),
            lambda proto: proto.graph.initializer.add(
                name="t", data_type=TensorProto.FLOAT, dims=[2], float_data=[1, 2, 3]
            ),
        ),
        r"^the data of 't' is not FLOAT\[2\]: cannot reshape|inter\.onnx is not a valid ONNX model",
    ),
    "nodes out of order": Right(
        lambda: edited(whole(), lambda proto: proto.graph.node.append(proto.graph.node.pop(0))),
        product,
    ),
    "nodes out of order in a branch": Right(
        lambda: edited(
            whole(LAYER_M + branch("p = Neg (m) on_yes = Neg (p)")),
            lambda proto: reverse(proto.graph.node[-1].attribute[0].g.node),
        ),
        product,
    ),
    "a node that depends on its own output": Refused(
        lambda: edited(
            whole(), lambda proto: node(proto, "dequantize_x").input.__setitem__(0, "y")
        ),
        r"inter\.onnx is not a valid ONNX model: Graph contains a cycle",
    ),
    "no shapes": Right(
        lambda: edited(
            whole(),
            lambda proto: [
                value.type.tensor_type.ClearField("shape")
                for value in (*proto.graph.input, *proto.graph.output)
            ],
        ),
        product,
        checked=False,
    ),
    "no shapes, and an operator that is none": Refused(
        lambda: edited(
            whole(),
            lambda proto: [
                proto.graph.output[0].type.tensor_type.ClearField("shape"),
                setattr(node(proto, "fc"), "op_type", "NoSuch"),
            ],
        ),
        r"inter\.onnx is not a valid ONNX model: No Op registered for NoSuch",
    ),
}

TABLE = (
    SUMS | SCALES | SHARED | SUBGRAPHS | FUNCTIONS | VERSIONS | DEFAULTS | PAIRS | OPTIONAL
    | SHAPES | AXES | NAMES | FILES
)  # fmt: skip
ROWS = [(case, target) for case, row in TABLE.items() for target in row.targets]


@pytest.mark.parametrize(("case", "target"), ROWS)
def test_hostile_models(tmp_path, case, target):
    row = TABLE[case]
    source = save(row.make(), tmp_path)
    if isinstance(row, Refused):
        with pytest.raises(row.error, match=row.message) as caught:
            convert_qat_model(source, tmp_path / "out" / "net", target=target)
        assert type(caught.value) is row.error
        assert [path.name for path in tmp_path.iterdir()] == ["inter.onnx"]
        return
    done = convert_qat_model(source, tmp_path / "out" / "net", target=target, **row.more)
    assert tuple(layer.name for layer in done.layers) == row.layers
    assert {operator.name: operator.reason for operator in done.left_in_float} == row.left
    x = batch() if row.x is None else row.x
    expected = row.expected(x)
    for path in (done.fake_quant, done.deploy):
        if target == "ascend" and path == done.deploy:
            results = {"evaluated": run_model(path, [x])["y"]}
        else:
            if row.checked:
                onnx.checker.check_model(str(path), full_check=True)
            data = path.read_bytes()
            results = {level: run_at(data, x, level) for level in LEVELS}
        for level, y in results.items():
            assert same_bits(y, expected), f"{path.name} at {level}"
