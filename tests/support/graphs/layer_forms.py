"""Every form in which a QDQ model may hold one and the same layer: INTEGERS, SW, and BIAS."""

import numpy as np

from tests.support.graphs.text import BIAS, GEMM, INTEGERS, MATMUL, SW, SX, W, X

FLOAT_WEIGHT = INTEGERS.astype(np.float32) * SW
UNSIGNED = (INTEGERS.astype(np.int16) + 128).astype(np.uint8)
BIAS_CODES = np.rint(BIAS / (SX * SW)).astype(np.int32)

FORMS = {
    "matmul": (MATMUL, {}),
    "weight without zero point": (
        X + "wd = DequantizeLinear <axis = 1> (w, sw) y = MatMul(xd, wd)",
        {},
    ),
    "negative axis": (MATMUL.replace("axis: int = 1", "axis = -1"), {}),
    "weight quantized in the file": (
        X
        + "wq = QuantizeLinear <axis = 1> (f, sw, zw)"
        + W.replace("(w,", "(wq,")
        + "y = MatMul(xd, wd)",
        {"f": FLOAT_WEIGHT},
    ),
    "weight quantized beyond the grid": (
        X
        + "wq = QuantizeLinear <axis = 1> (f, sw, zw)"
        + W.replace("(w,", "(wq,")
        + "y = MatMul(xd, wd)",
        {"f": np.where(INTEGERS == 127, 9.0, FLOAT_WEIGHT).astype(np.float32)},
    ),
    "unsigned weight": (MATMUL, {"w": UNSIGNED, "zw": np.full(2, 128, np.uint8)}),
    "transposed weight": (
        X + "wd = DequantizeLinear <axis = 0> (w, sw, zw) t = Transpose (wd) y = MatMul (xd, t)",
        {"w": INTEGERS.T.copy()},
    ),
    "transposed before its pair": (
        X + "t = Transpose <perm = [1, 0]> (w)" + W.replace("(w,", "(t,") + "y = MatMul(xd, wd)",
        {"w": INTEGERS.T.copy()},
    ),
    "reshaped weight": (
        X
        + "wd = DequantizeLinear <axis = 0> (w, sw, zw) r = Reshape (wd, two) "
        + "t = Transpose (r) y = MatMul (xd, t)",
        {"w": INTEGERS.T.reshape(2, 3, 1), "two": np.array([0, -1])},
    ),
    "weights in constants": (
        X.replace("xq =", "cs = Constant <value_float = 0.05> () sx = Identity (cs) xq =")
        + W
        + "y = MatMul (xd, wd)",
        {"sx": None},
    ),
    "gemm": (GEMM.replace(", b)", ")"), {}),
    "gemm transB": (
        X + W.replace("= 1", "= 0") + "y = Gemm <transB = 1> (xd, wd)",
        {"w": INTEGERS.T.copy()},
    ),
    "gemm alpha and beta 1": (X + W + "y = Gemm <alpha = 1.0, beta = 1.0> (xd, wd)", {}),
    "input without zero point": (
        MATMUL.replace("(x, sx, zx)", "(x, sx)").replace("(xq, sx, zx)", "(xq, sx)"),
        {},
    ),
}
"""Nodes and arrays of the matrix product without a bias."""

BIASES = {
    "added on the right": (X + W + "m = MatMul (xd, wd) y = Add (m, b)", {}),
    "added on the left": (X + W + "m = MatMul (xd, wd) y = Add (b, m)", {}),
    "of a gemm": (GEMM, {}),
    "of a gemm, as a row": (GEMM, {"b": BIAS.reshape(1, 2)}),
    "dequantized": (
        X + W + "b = DequantizeLinear <axis = 0> (bq, sb, zb) y = Gemm (xd, wd, b)",
        {"b": None, "bq": BIAS_CODES, "sb": SX * SW, "zb": np.zeros(2, np.int32)},
    ),
    "dequantized without a zero point": (
        X + W + "b = DequantizeLinear <axis = 0> (bq, sb) m = MatMul (xd, wd) y = Add (m, b)",
        {"b": None, "bq": BIAS_CODES, "sb": SX * SW},
    ),
    "behind an identity": (X + W + "i = Identity (b) m = MatMul (xd, wd) y = Add (m, i)", {}),
}
"""The same with a bias."""
