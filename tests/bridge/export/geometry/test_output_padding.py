"""Transposed convolutions whose output_padding ONNX Runtime rejects, in every model."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from bridge import ascend_twin, convert_qat_model
from bridge.export.geometry.output_padding import pad_kernel
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import SX, ZX, codes, model, save

KERNEL = np.random.default_rng(0).integers(-90, 90, (3, 2, 2)).astype(np.int8)
SW = np.float32(0.25)
GEOMETRY = "dilations = [5], strides = [2], pads = {}, output_padding = [4]"
GEOMETRIES = {
    "cut": GEOMETRY.format([0, 5]),
    "longer": GEOMETRY.format([1, 1]),
    "without pads": GEOMETRY.replace("pads = {}, ", ""),
    "empty": GEOMETRY.format([12, 0]),
}
QUANTIZED = """
    xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx)
    wd = DequantizeLinear (w, sw, zw)
"""
FLOAT = {
    "a constant": "up = ConvTranspose <{}> (x, f)",
    "a computed weight": "t = Abs (f) up = ConvTranspose <{}> (x, t)",
    "in a subgraph": """
        m = ReduceMax <keepdims = 0> (x) k = IsInf (m) up = If (k) <
            then_branch = t () => (float[A, B, C] a) { a = Neg (x) },
            else_branch = e () => (float[A, B, C] b) { b = ConvTranspose <{}> (x, f) }
        >""",
}


def source(body):
    return model(
        body,
        inputs="float[N, 3, L] x",
        outputs="float[A, B, C] y",
        w=KERNEL,
        sw=SW,
        zw=np.int8(0),
        f=KERNEL.astype(np.float32),
        v=np.eye(2, dtype=np.int8)[..., None],
    )


def picture():
    return np.random.default_rng(1).normal(0.0, 4.0, (2, 3, 5)).astype(np.float32)


def up(x, geometry, weight):
    """By torch, which pads both ends of an axis alike, so that the output is cropped afterwards."""
    pads = [int(n) for n in geometry.partition("pads = [")[2].partition("]")[0].split(",") if n]
    x, weight = (torch.from_numpy(np.asarray(a, np.float64)) for a in (x, weight))
    y = F.pad(F.conv_transpose1d(x, weight, stride=2, dilation=5), (0, 4))
    begin, end = pads or (0, 0)
    return y[..., begin : y.shape[-1] - end].numpy()


@pytest.mark.parametrize("options", [{}, {"mode": "fast"}, {"target": "ascend"}, {"target": "qdq"}])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_bits_of_a_layer(tmp_path, name, options):
    proto = source(QUANTIZED + f"y = ConvTranspose <{GEOMETRIES[name]}> (xd, wd)")
    x = picture()
    data = {"data": [x]} if "mode" in options else {}
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net", **options, **data)
    deploy = done.deploy
    if done.target == "ascend":
        deploy = ascend_twin(deploy, tmp_path / "twin.onnx")
    fake, found = (run_model(path, [x])["y"] for path in (done.fake_quant, deploy))
    sums = up(codes(x, SX, ZX), GEOMETRIES[name], KERNEL)
    assert same_bits(fake, sums.astype(np.float32) * (SX * SW))
    assert fake.size
    if done.target == "qdq":
        assert np.allclose(found, fake, rtol=1e-5, atol=1e-5)
    else:
        assert same_bits(found, fake)


@pytest.mark.parametrize("options", [{}, {"mode": "fast"}])
@pytest.mark.parametrize("geometry", ["longer", "empty"])
@pytest.mark.parametrize("name", FLOAT)
def test_one_that_stays_in_float(tmp_path, name, geometry, options):
    """Between layers, so that mode "fast" runs it too."""
    given = GEOMETRIES[geometry]
    body = FLOAT[name].replace("{}", given) + QUANTIZED.replace("(x, s", "(up, s").replace(
        "(w", "(v"
    )
    proto = source(body + "y = Conv (xd, wd)")
    x = picture()
    data = {"data": [x]} if options else {}
    done = convert_qat_model(save(proto, tmp_path), tmp_path / "net", **options, **data)
    fake, found = (run_model(path, [x])["y"] for path in (done.fake_quant, done.deploy))
    weight = np.abs(KERNEL) if "computed" in name else KERNEL
    wanted = up(x, given, weight).astype(np.float32)
    assert same_bits(fake, found)
    assert np.abs(fake - codes(wanted, SX, ZX) * SX * SW).max() <= SX * SW
    onnx.checker.check_model(onnx.load(done.deploy), full_check=True)


def test_what_onnx_runtime_takes_stays_as_it_is():
    given = {"strides": [2], "output_padding": [1], "pads": [0, 1]}
    weight, attributes = pad_kernel(KERNEL, given)
    assert weight is KERNEL
    assert attributes == given
    size = {"output_padding": [3], "output_shape": [20]}
    assert pad_kernel(KERNEL, size) == (KERNEL, size)
