"""Rank and channels, by which ONNX Runtime chooses kernels, are annotated in both files."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import shape_inference

from bridge.export.graph.shapes import with_shapes
from bridge.export.pipeline import convert_model
from bridge.export.plan.costs import FORMS, INTEGER, QLINEAR_2D
from tests.support.bits import same_bits
from tests.support.conversions import forced
from tests.support.graphs.text import model
from tests.support.runtime import run_at

LAYERS = {
    "conv": ("Conv <pads = [1, 1, 1, 1]>", (16, 16, 3, 3)),
    "transposed": ("ConvTranspose <strides = [2, 2]>", (16, 16, 2, 2)),
    "transposed in groups": ("ConvTranspose <group = 2, strides = [2, 2]>", (16, 8, 2, 2)),
    "transposed, cut": (
        "ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>",
        (16, 16, 3, 3),
    ),
    "volumes": ("Conv <pads = [1, 1, 1, 1, 1, 1]>", (16, 16, 3, 3, 3)),
}
READERS = {
    "average": "y = AveragePool <kernel_shape = {ones}, count_include_pad = 1, pads = {pads}> (f)",
    "convolution": "y = Conv (f, k)",
    "paired": "fq = QuantizeLinear (f, so, zx) d = DequantizeLinear (fq, so, zx)"
    " y = AveragePool <kernel_shape = {ones}> (d)",
    "everything": "y = GlobalAveragePool (f)",
}


def source(layer, reader, *, stated):
    rng = np.random.default_rng(0)
    op, shape = LAYERS[layer]
    spatial = len(shape) - 2
    dims = ", ".join(["N", "16", "A", "B", "C"][: spatial + 2])
    sizes = {"ones": [3] * spatial, "pads": [1] * 2 * spatial}
    proto = model(
        "xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx)"
        f" wd = DequantizeLinear (w, sw, zw) f = {op} (xd, wd) " + READERS[reader].format(**sizes),
        inputs=f"float[{dims}] x",
        outputs=f"float[{', '.join(f'O{i}' for i in range(spatial + 2))}] y",
        w=rng.integers(-127, 128, shape).astype(np.int8),
        sw=np.float32(0.0123456),
        zw=np.int8(0),
        sx=np.float32(0.0271828),
        so=np.float32(0.2),
        k=rng.normal(size=(16, 16, *[1] * spatial)).astype(np.float32),
        opset=17,
    )
    return shape_inference.infer_shapes(proto) if stated else proto


def picture(layer):
    shape = (2, 16, 6, 5, 4)[: len(LAYERS[layer][1])]
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def converted(proto, form):
    fake, deploy, _, _, _ = convert_model(ir.from_proto(proto), choose=forced(form))
    return [ir.to_proto(made).SerializeToString() for made in (fake, deploy)]


@pytest.mark.parametrize("stated", [True, False], ids=["with value infos", "without"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_both_files_take_the_same_kernels(layer, reader, stated):
    proto, x = source(layer, reader, stated=stated), picture(layer)
    files = converted(proto, QLINEAR_2D if layer == "volumes" else INTEGER)
    for level in ("DISABLE_ALL", "ENABLE_ALL"):
        fake, deploy = (run_at(one, x, level) for one in files)
        assert same_bits(fake, deploy), level


@pytest.mark.parametrize("form", [*FORMS, QLINEAR_2D])
@pytest.mark.parametrize("layer", LAYERS)
def test_an_empty_batch(layer, form):
    x = picture(layer)
    fake, deploy = converted(source(layer, "paired", stated=False), form)
    wanted = run_at(fake, x, "ENABLE_ALL").shape[1:]
    for one in (fake, deploy):
        assert run_at(one, x[:0], "ENABLE_ALL").shape == (0, *wanted)


def test_a_convolution_of_unknown_rank():
    """Rank and channels of the output follow from the weight."""
    proto = model(
        "r = Reshape (x, s) c = Conv (r, k) d = ConvTranspose <group = 2> (c, t) y = Relu (d)",
        inputs="float[N, M] x, int64[R] s",
        outputs="float[A, B, C, D] y",
        k=np.zeros((8, 16, 1, 1), np.float32),
        t=np.zeros((8, 3, 1, 1), np.float32),
    )
    made = with_shapes(ir.from_proto(proto))
    shapes = [node.outputs[0].shape for node in made.graph]
    assert shapes[0] is None
    assert [len(shape) for shape in shapes[1:3]] == [4, 4]
    assert [shape[1] for shape in shapes[1:3]] == [8, 6]


def test_a_size_that_a_file_states_stays():
    proto = source("conv", "average", stated=False)
    info = onnx.helper.make_tensor_value_info("f", 1, ["batch", None, "height", 5])
    proto.graph.value_info.append(info)
    made = with_shapes(ir.from_proto(proto))
    (f,) = (v for node in made.graph for v in node.outputs if v.name == "f")
    assert [dim if isinstance(dim, int) else dim.value for dim in f.shape] == [
        "batch",
        16,
        "height",
        5,
    ]


def test_sizes_behind_a_pool_that_rounds_up_are_not_stated():
    """onnx infers 4 where every runtime computes 3: the last window would start in padding."""
    proto = model(
        "p = MaxPool <kernel_shape = [2], strides = [2], pads = [1, 1], ceil_mode = 1> (x)"
        " c = Conv (p, k) m = Flatten (c) y = Relu (m)",
        inputs="float[N, 16, 5] x",
        outputs="float[A, B] y",
        k=np.zeros((8, 16, 1), np.float32),
    )
    pool, conv, flat, _ = with_shapes(ir.from_proto(proto)).graph
    assert [pool.outputs[0].shape[i] for i in (1, 2)] == [16, ir.SymbolicDim(None)]
    assert [conv.outputs[0].shape[i] for i in (1, 2)] == [8, ir.SymbolicDim(None)]
    assert flat.outputs[0].shape is None
