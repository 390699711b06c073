"""Models to damage, each with the shape of its input."""

from collections.abc import Callable

import numpy as np
import onnx

from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, PER_TENSOR, W, X, model

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
    "gemm": (lambda: model(GEMM, b=BIAS, **PER_TENSOR), (4, 3)),
    "16 bits": (lambda: model(MATMUL, zx=np.int16(-7), opset=21), (4, 3)),
    "two activations": (lambda: model(_PRODUCT + W + " k = MatMul (xd, wd)"), (4, 3)),
    "conv": (
        lambda: model(_CONV + _NORM, v=np.ones(2, np.float32), **_IMAGES, **_KERNEL),
        (2, 2, 5, 5),
    ),
    "stored bias, moved input": (
        lambda: model(
            _STORED, bq=np.int8([9, -5]), sb=np.float32(0.1), zb=np.int8(3), **PER_TENSOR
        ),
        (4, 3),
    ),
    "computed scale": (lambda: model(_COMPUTED, sx=None, d=np.float64(0.25), **PER_TENSOR), (4, 3)),
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
    "if": (lambda: model(X + W + "[fc] m = MatMul (xd, wd) " + _IF, **PER_TENSOR), (4, 3)),
    "loop": (lambda: model(X + W + "[fc] m = MatMul (xd, wd) " + _LOOP, **PER_TENSOR), (4, 3)),
    "function": (lambda: model(X + W + "y = local.f (xd, wd)", functions=_LOCAL), (4, 3)),
    "reshaped": (
        lambda: model(
            _RESHAPED,
            w=np.ascontiguousarray(INTEGERS.T.reshape(1, 6)),
            shape=np.int64([2, 3]),
            **PER_TENSOR,
        ),
        (4, 3),
    ),
}
