"""A layer that no integer model can have stays in float, by name, and costs no other layer."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from bridge import convert_qat_model
from tests.support.graphs.text import (
    BIAS,
    INTEGERS,
    SX,
    ZX,
    W,
    X,
    batch,
    codes,
    model,
    rescaled,
    save,
)
from tests.support.runtime import LEVELS, outputs_at

ONE = np.float32(0.01)
BAD = (
    X.replace("xq", "vq").replace("xd", "vd").replace("(x, sx, zx)", "(x, sv, zv)")
    .replace("sx, zx", "sv, zv").replace("_x]", "_v]")
    + "[dequantize_u] ud = DequantizeLinear <axis: int = 1> (u, su, zu) [bad] z = Gemm (vd, ud, bv)"
)  # fmt: skip
GOOD = X + W + "[good] y = MatMul (xd, wd)"
SAME = {"sv": SX, "zv": ZX, "u": INTEGERS, "su": ONE, "zu": np.int8(0), "bv": BIAS}


class Case(NamedTuple):
    arrays: dict[str, Any]
    reason: str


def scale(which: str, value: Any, printed: str, node: str) -> Case:
    reason = f"the scale of DequantizeLinear '{node}' must be positive and finite, got [{printed}]"
    return Case({which: value}, reason)


CASES = {
    "a scale of the input of 0": scale("sv", np.float32(0), "0.", "dequantize_v"),
    "an infinite scale of the input": scale("sv", np.float32(np.inf), "inf", "dequantize_v"),
    "a negative scale of the weight": scale("su", np.float32(-1), "-1.", "dequantize_u"),
    "a scale of the weight that is NaN": scale("su", np.float32(np.nan), "nan", "dequantize_u"),
    "one scale of 0 among good ones": Case(
        {"su": np.float32([1, 0]), "zu": np.int8([0, 0])},
        "the scale of DequantizeLinear 'dequantize_u' must be positive and finite, got [1. 0.]",
    ),
    "a product of scales of 0": Case(
        {"sv": np.float32(1e-30), "su": np.float32(1e-30)},
        "scale_x * scale_w must be positive and finite in float32, got 1e-30 * 1e-30",
    ),
    "an infinite product of scales": Case(
        {"sv": np.float32(1e30), "su": np.float32(1e30)},
        "scale_x * scale_w must be positive and finite in float32, got 1e+30 * 1e+30",
    ),
    "a bias beyond int32": Case(
        {"bv": np.float32([0, 2e6])},
        "its bias / (scale_x * scale_w) must fit int32, got up to 4e+09; the scale of a channel "
        "is too small for its bias",
    ),
    "a bias that is NaN": Case(
        {"bv": np.float32([0, np.nan])},
        "its bias / (scale_x * scale_w) must fit int32, got up to nan; the scale of a channel "
        "is too small for its bias",
    ),
    "sums and bias beyond int32": Case(
        {"bv": np.float32([0, 2147483000 * SX * ONE])},
        "its sums can reach 2147492394, beyond the accumulator's 2147483647; use smaller clips, "
        "fewer input channels or a smaller bias",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_other_layer_is_converted(tmp_path, case):
    arrays, reason = CASES[case]
    proto = model(
        GOOD + BAD,
        outputs="float[N, 2] y, float[N, 2] z",
        sw=ONE,
        zw=np.int8(0),
        **(SAME | arrays),
    )
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net")
    assert [layer.name for layer in done.layers] == ["good"]
    assert [(left.name, left.reason) for left in done.left_in_float] == [("bad", reason)]
    x = batch()
    expected = rescaled(codes(x, SX, ZX) @ INTEGERS.astype(np.int64), SX, ONE)
    z = None
    for path in (done.fake_quant, done.deploy):
        for level in LEVELS:
            y, other = outputs_at(path.read_bytes(), x, level)
            assert np.array_equal(y, expected), (path.name, level)
            z = other if z is None else z
            assert np.array_equal(other, z, equal_nan=True), (path.name, level)
