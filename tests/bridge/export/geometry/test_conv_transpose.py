"""Transposed convolutions as ordinary ones: their geometry and their bits, in every form."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from bridge.export.geometry.conv_transpose import as_convolution, can_be_convolution
from bridge.export.pipeline import convert_model
from bridge.export.plan.costs import FLOAT, FORMS, INTEGER
from bridge.export.plan.forms import ort_candidates
from bridge.export.running.runtime import run_model
from tests.support.bits import same_bits
from tests.support.graphs.text import codes, model, the_layer

SX, SW, ZX = np.float32(0.5), np.float32(0.25), np.int8(-7)
SC, ZC = np.float32(8.0), np.int8(-3)
"""Powers of two, for which every form is proven without adjusting a rescale."""

GEOMETRIES = {
    "kernel of the stride": ((3, 4, 2, 2), {"strides": [2, 2]}),
    "smaller than the stride": ((3, 4, 2, 1), {"strides": [3, 2]}),
    "cut at the front": ((3, 4, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "turned around": ((3, 4, 3, 2), {"pads": [1, 0, 0, 1], "dilations": [2, 1]}),
    "two strides": ((3, 2, 3, 5), {"strides": [1, 3], "pads": [0, 2, 1, 0]}),
    "wide": ((3, 2, 5, 3), {"strides": [3, 1], "output_padding": [2, 0]}),
    "padding beyond the kernel": ((3, 2, 2, 1), {"strides": [2, 2], "pads": [4, 3, 3, 2]}),
    "dilated": ((3, 1, 3, 3), {"strides": [2, 2], "dilations": [2, 3], "pads": [1, 2, 1, 2]}),
    "output_padding of the stride": (
        (3, 4, 2, 2),
        {"dilations": [3, 2], "strides": [1, 2], "output_padding": [2, 1]},
    ),
    "empty but for output_padding": (
        (3, 4, 1, 2),
        {"dilations": [4, 3], "pads": [5, 1, 0, 0], "output_padding": [3, 2]},
    ),
    "one axis, empty but for output_padding": (
        (3, 2, 2),
        {"dilations": [5], "strides": [2], "pads": [9, 6], "output_padding": [4]},
    ),
    "groups": (
        (3, 2, 3, 3),
        {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "one axis": ((3, 4, 5), {"strides": [3], "pads": [1, 0]}),
    "one axis, one phase": ((3, 4, 3), {"pads": [1, 1]}),
    "one axis in groups": ((3, 1, 3), {"group": 3, "strides": [2]}),
}


def source(kernel, attributes, *, chained=False, zero=ZX):
    """A transposed convolution, a ReLU and a quantizer."""
    spatial = kernel.ndim - 2
    given = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    axes = ["H", "L"][:spatial]
    return model(
        "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx) "
        "wd = DequantizeLinear (w, sw, zw) "
        f"[up] {'f' if chained else 'y'} = ConvTranspose <{given}> (xd, wd, b) "
        + (
            "r = Relu (f) rq = QuantizeLinear (r, sc, zc) y = DequantizeLinear (rq, sc, zc)"
            if chained
            else ""
        ),
        inputs=f"float[N, 3, {', '.join(axes)}] x",
        outputs=f"float[N, K, {', '.join(axis + '2' for axis in axes)}] y",
        w=kernel,
        sx=SX,
        zx=zero,
        sw=SW,
        zw=np.int8(0),
        sc=SC,
        zc=ZC,
        b=(np.arange(kernel.shape[1] * attributes.get("group", 1)) - 1).astype(np.float32),
        opset=21,
    )


def expected(kernel, attributes, x, zero=ZX):
    """The layer's output, from sums in float64, which represents these integers exactly."""
    spatial = kernel.ndim - 2
    zeros, ones = [0] * spatial, [1] * spatial
    pads = attributes.get("pads", zeros * 2)
    function = (F.conv_transpose1d, F.conv_transpose2d)[spatial - 1]
    strides, dilations = (attributes.get(name, ones) for name in ("strides", "dilations"))
    full = function(
        torch.from_numpy(codes(x, SX, zero).astype(np.float64)),
        torch.from_numpy(kernel.astype(np.float64)),
        stride=strides,
        dilation=dilations,
        groups=attributes.get("group", 1),
    ).numpy()
    more = attributes.get("output_padding", zeros)
    full = np.pad(full, [(0, 0), (0, 0), *((0, m) for m in more)])
    ends = [size - end for size, end in zip(full.shape[2:], pads[spatial:], strict=True)]
    window = [slice(a, b) for a, b in zip(pads[:spatial], ends, strict=True)]
    bias = np.rint((np.arange(full.shape[1]) - 1) / (SX * SW))
    sums = full[(slice(None), slice(None), *window)] + bias.reshape(-1, *(1,) * spatial)
    return sums.astype(np.float32) * (SX * SW)


def drawn(shape):
    rng = np.random.default_rng(3)
    kernel = rng.integers(-128, 128, shape).astype(np.int8)
    x = rng.normal(0, 20, (2, 3, *(5, 4)[: kernel.ndim - 2])).astype(np.float32)
    return kernel, x


def converted(proto, form, folder):
    """Both models, with the layer in a given form."""
    fake, deploy, (layer,), _, _ = convert_model(
        ir.serde.deserialize_model(proto),
        choose=lambda layer, chain: {f.name: f for f in ort_candidates(layer, chain)}[form],
    )
    assert layer.form == form
    paths = folder / "fake.onnx", folder / "deploy.onnx"
    for path, made in zip(paths, (fake, deploy), strict=True):
        ir.save(made, path)
    return paths


@pytest.mark.parametrize(
    ("form", "zero"),
    [(INTEGER, ZX), (INTEGER, np.int16(900)), (FLOAT, ZX)],
    ids=["integer", "integer, int16", "float"],
)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_bits_of_sums(tmp_path, name, form, zero):
    shape, attributes = GEOMETRIES[name]
    kernel, x = drawn(shape)
    for path in converted(source(kernel, attributes, zero=zero), form, tmp_path):
        y = run_model(path, [x])["y"]
        assert same_bits(y, np.ascontiguousarray(expected(kernel, attributes, x, zero))), path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_bits_of_codes(tmp_path, name, form):
    shape, attributes = GEOMETRIES[name]
    kernel, x = drawn(shape)
    y = np.maximum(expected(kernel, attributes, x), np.float32(0))
    wanted = codes(y, SC, ZC).astype(np.float32) * SC
    for path in converted(source(kernel, attributes, chained=True), form, tmp_path):
        assert same_bits(run_model(path, [x])["y"], np.ascontiguousarray(wanted)), path


def convolution(name, folder, **options):
    shape, attributes = GEOMETRIES[name]
    kernel = np.ones(shape, np.int8)
    return as_convolution(the_layer(source(kernel, attributes), folder), **options)


def test_a_kernel_of_the_stride_becomes_one_tap(tmp_path):
    weight, attributes, phases = convolution("kernel of the stride", tmp_path)
    assert weight.shape == (16, 3, 1, 1)
    assert attributes["pads"] == [0, 0, 0, 0]
    assert (phases.starts, phases.ends) == ((0, 0), (0, 0))


def test_the_fewest_taps_are_chosen(tmp_path):
    weight, _, phases = convolution("cut at the front", tmp_path)
    assert weight.shape == (16, 3, 2, 2)
    assert weight.all(), "no weight is a zero that was put in"
    assert (phases.starts, phases.ends) == ((1, 1), (1, 1))


def test_a_dilated_kernel_of_stride_1_stays_dilated(tmp_path):
    weight, attributes, phases = convolution("turned around", tmp_path)
    assert weight.shape == (4, 3, 3, 2)
    assert attributes["dilations"] == [2, 1]
    assert phases.strides == (1, 1)


def test_both_orders_of_channels(tmp_path):
    shape, attributes = GEOMETRIES["kernel of the stride"]
    kernel, _ = drawn(shape)
    layer = the_layer(source(kernel, attributes), tmp_path)
    last, first = (as_convolution(layer, phases_first=first) for first in (False, True))
    rows = last.weight.reshape(4, 4, 3)
    assert np.array_equal(rows, kernel.transpose(1, 2, 3, 0).reshape(4, 4, 3))
    assert np.array_equal(first.weight.reshape(4, 4, 3), rows.swapaxes(0, 1))
    bias = np.arange(4)
    assert last.phases.spread(bias).tolist() == np.repeat(bias, 4).tolist()
    assert first.phases.spread(bias).tolist() == [*bias] * 4


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((3, 2, 1, 1), {"strides": [5, 5]}),
        ((3, 2, 2, 2), {"strides": [2, 2], "dilations": [9, 9]}),
        ((3, 2, 2, 2), {"strides": [2]}),
        ((3, 2, 2, 2), {"strides": [0, 1]}),
        ((3, 2, 2, 2), {"pads": [0, -1, 0, 0]}),
        ((3, 2, 2, 2), {"kernel_shape": [3, 3]}),
    ],
    ids=["a far stride", "far taps", "too few", "no stride", "negative", "another kernel"],
)
def test_layers_without_an_equivalent_convolution(tmp_path, shape, attributes):
    """Most weights would be zeros, or an attribute is invalid, which ONNX Runtime reports."""
    layer = the_layer(source(np.ones(shape, np.int8), attributes), tmp_path)
    assert not can_be_convolution(layer)
    assert [form.name for form in ort_candidates(layer, None)] == [FLOAT]


def test_a_far_dilation_of_stride_1_has_no_zeros_between(tmp_path):
    kernel = np.ones((3, 2, 2, 2), np.int8)
    layer = the_layer(source(kernel, {"dilations": [50, 50]}), tmp_path)
    assert can_be_convolution(layer)
    assert as_convolution(layer).weight.shape == (2, 3, 2, 2)
