"""Shapes of values; and multiply-accumulates, compared with a count by loops."""

import itertools

import numpy as np
import pytest
import torch

from bridge.export.graph.shapes import dynamic_inputs, infer_sizes, macs, macs_per_position
from bridge.export.normalize.model import read_model
from bridge.export.read.layers import named_operators
from examples.networks import resnet18
from tests.support.exporters import export
from tests.support.graphs.text import model, save


def source(folder, body, inputs, *, rank=4, **arrays):
    """A float model whose output y has a shape that the file does not state."""
    outputs = f"float[{', '.join('ABCDE'[:rank])}] y"
    return read_model(save(model(body, inputs=inputs, outputs=outputs, **arrays), folder))


def counted(found, shapes=None):
    """Multiply-accumulates of the only operator, and those for one position."""
    sizes = infer_sizes(found, shapes)
    ((_, node),) = named_operators(found.graph)
    return macs(node, sizes), macs_per_position(node, sizes)


def weight(*shape):
    return np.ones(shape, np.float32)


def outputs(size, kernel, *, stride=1, dilation=1, pads=0):
    return (size + 2 * pads - dilation * (kernel - 1) - 1) // stride + 1


@pytest.mark.parametrize(
    ("groups", "stride", "dilation", "pads"),
    list(itertools.product((1, 2), (1, 2), (1, 3), (0, 2))),
)
def test_a_convolution(tmp_path, groups, stride, dilation, pads):
    body = (
        f"y = Conv <group = {groups}, strides = [{stride}, {stride}], pads = [{pads}, {pads}, "
        f"{pads}, {pads}], dilations = [{dilation}, {dilation}]> (x, w)"
    )
    found = source(tmp_path, body, "float[3, 4, 11, 13] x", w=weight(6, 4 // groups, 3, 2))
    how = {"stride": stride, "dilation": dilation, "pads": pads}
    pixels = outputs(11, 3, **how) * outputs(13, 2, **how)
    one = 6 * (4 // groups) * 3 * 2
    assert counted(found) == (3 * pixels * one, one)


@pytest.mark.parametrize(
    ("sizes", "kernel"), [((9,), (4,)), ((9, 8), (1, 5)), ((4, 9, 8), (2, 3, 3))]
)
def test_a_convolution_of_any_rank(tmp_path, sizes, kernel):
    shape = ", ".join(map(str, (2, 3, *sizes)))
    found = source(
        tmp_path,
        "y = Conv (x, w)",
        f"float[{shape}] x",
        rank=2 + len(sizes),
        w=weight(5, 3, *kernel),
    )
    pixels = np.prod([outputs(*pair) for pair in zip(sizes, kernel, strict=True)])
    one = 5 * 3 * np.prod(kernel)
    assert counted(found) == (2 * pixels * one, one)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 3])
def test_a_transposed_convolution(tmp_path, groups, stride):
    """Each input element is multiplied by all weights of its group and channel."""
    body = f"y = ConvTranspose <group = {groups}, strides = [{stride}, {stride}]> (x, w)"
    found = source(tmp_path, body, "float[3, 4, 5, 7] x", w=weight(4, 6 // groups, 3, 2))
    one = 4 * (6 // groups) * 3 * 2
    assert counted(found) == (3 * 5 * 7 * one, one)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm(tmp_path, transposed):
    shape = (5, 6) if transposed else (6, 5)
    found = source(
        tmp_path,
        f"y = Gemm <transB = {transposed}> (x, w)",
        "float[7, 6] x",
        rank=2,
        w=weight(*shape),
    )
    assert counted(found) == (7 * 6 * 5, 6 * 5)


@pytest.mark.parametrize(
    ("first", "second", "rank", "expected"),
    [
        ((7, 6), (6, 5), 2, 7 * 6 * 5),
        ((2, 3, 7, 6), (6, 5), 4, 2 * 3 * 7 * 6 * 5),
        ((2, 1, 7, 6), (3, 6, 5), 4, 2 * 3 * 7 * 6 * 5),
        ((6,), (2, 6, 5), 2, 2 * 6 * 5),
        ((2, 7, 6), (6,), 2, 2 * 7 * 6),
    ],
)
def test_a_matrix_product(tmp_path, first, second, rank, expected):
    inputs = ", ".join(f"float{list(shape)} {x}" for shape, x in ((first, "x"), (second, "v")))
    assert counted(source(tmp_path, "y = MatMul (x, v)", inputs, rank=rank))[0] == expected


def test_an_open_size_is_not_guessed(tmp_path):
    found = source(tmp_path, "y = Conv (x, w)", "float[N, 3, H, 8] x", w=weight(5, 3, 2, 2))
    assert [value.name for value in dynamic_inputs(found)] == ["x"]
    assert counted(found) == (None, 60)
    assert counted(found, {"x": (4, 3, 6, 8)}) == (4 * 5 * 7 * 60, 60)
    assert counted(found) == (None, 60), "the model is left as it is"


def test_one_name_is_one_size(tmp_path):
    """The shape of x determines shapes with the same symbols, and computed ones."""
    body = "y = MatMul (x, v)"
    found = source(tmp_path, body, "float[N, T] x, float[T, K] v", rank=2)
    assert counted(found, {"x": (2, 3)}) == (None, None)
    assert counted(found, {"x": (2, 3), "v": (3, 5)}) == (30, 15)
    found = source(
        tmp_path,
        "s = Add (x, u) y = MatMul (s, w)",
        "float[N, 6] x, float[N, 6] u",
        rank=2,
        w=weight(6, 5),
    )
    assert counted(found, {"x": (2, 6)}) == (60, 30)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3, 4, 8)}, r"^input_shapes: there is no input 'z', but \['x'\]$"),
        ({"x": (1, 4, 4, 8)}, r"^input_shapes: input 'x' has the shape .*, got \(1, 4, 4, 8\)$"),
        ({"x": (1, 3, 8)}, r"^input_shapes: input 'x' has the shape .*, got \(1, 3, 8\)$"),
        ({"x": (0, 3, 4, 8)}, r"^input_shapes: input 'x' has the shape .*, got \(0, 3, 4, 8\)$"),
    ],
)
def test_wrong_sizes(tmp_path, shapes, message):
    found = source(tmp_path, "y = Conv (x, w)", "float[N, 3, H, 8] x", w=weight(5, 3, 2, 2))
    with pytest.raises(ValueError, match=message):
        infer_sizes(found, shapes)


def test_a_resnet18_has_its_1814_million(tmp_path):
    """1,814,073,344 with 1,000 classes, as published; here there are 10."""
    net = resnet18().eval()
    path = export(net, (torch.zeros(1, 3, 224, 224),), tmp_path / "net.onnx", "torchscript")
    found = read_model(path)
    sizes = infer_sizes(found)
    total = sum(macs(node, sizes) for _, node in named_operators(found.graph))
    assert total == 1_814_073_344 - 512 * 990
