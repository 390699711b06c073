"""Graph outputs before a quantizer: ONNX Runtime must not round them."""

import numpy as np
import onnx_ir as ir
import pytest

from bridge.export.pipeline import convert_model
from tests.support.bits import same_bits
from tests.support.graphs.text import model
from tests.support.runtime import LEVELS, run_at

MOVES = {
    "transposed": "t = Transpose <perm = [0, 2, 1]> (y)",
    "pooled": "t = MaxPool <kernel_shape = [1]> (y)",
    "reshaped": "u = Unsqueeze (y, last) t = Squeeze (u, last)",
}


@pytest.mark.parametrize("zero", [np.int8(-128), np.uint8(0)])
@pytest.mark.parametrize("name", MOVES)
def test_an_output_that_a_quantizer_reads_after_moves(tmp_path, name, zero):
    """y has negative values at every level, which the quantizer of t clamps."""
    proto = model(
        "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx)"
        f" wd = DequantizeLinear (w, sw, zw) c = Conv (xd, wd) y = Concat <axis = 1> (c, c) "
        f"{MOVES[name]} q = QuantizeLinear (t, so, zo) d = DequantizeLinear (q, so, zo)"
        " z = Sigmoid (d)",
        inputs="float[N, 3, 4] x",
        outputs="float[A, B, C] y, float[D, E, F] z",
        w=np.eye(3, dtype=np.int8)[..., None] * 100,
        sw=np.float32(0.01),
        zw=np.int8(0),
        so=np.float32(0.05),
        zo=zero,
        last=np.array([3], np.int64),
    )
    x = np.random.default_rng(0).normal(0.0, 4.0, (2, 3, 4)).astype(np.float32)
    fake, deploy, *_ = convert_model(ir.from_proto(proto))
    paths = [tmp_path / "fake.onnx", tmp_path / "deploy.onnx"]
    for path, made in zip(paths, (fake, deploy), strict=True):
        ir.save(made, path)
    wanted = run_at(paths[0], x, "DISABLE_ALL")
    assert wanted.min() < 0
    for level in LEVELS:
        assert all(same_bits(run_at(path, x, level), wanted) for path in paths), level
