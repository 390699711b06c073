"""Tiny QDQ models written by hand, and what their layers compute, in NumPy integers.

A model is ONNX text: nodes in onnx's own syntax, initializers as NumPy arrays. Most tests use one
layer of three inputs and two outputs; X and W are the pairs in front of it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from bridge.export.normalize.model import read_model
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import FloatOperator, read_layers

Array = Any

X = """
    [quantize_x] xq = QuantizeLinear (x, sx, zx)
    [dequantize_x] xd = DequantizeLinear (xq, sx, zx)
"""
W = """
    [dequantize_w] wd = DequantizeLinear <axis: int = 1> (w, sw, zw)
"""
MATMUL = X + W + "[fc] y = MatMul (xd, wd)"
GEMM = X + W + "[fc] y = Gemm (xd, wd, b)"
ADDED = X + W + "[fc] m = MatMul (xd, wd) y = Add (m, b)"

SX, ZX = np.float32(0.05), np.int8(-7)
INTEGERS = np.array([[127, -5], [-128, 64], [33, 2]], np.int8)
SW = np.array([0.01, 0.003], np.float32)
BIAS = np.array([1.3, -0.74], np.float32)
LAYER = {"sx": SX, "zx": ZX, "w": INTEGERS, "sw": SW, "zw": np.zeros(2, np.int8)}
PER_TENSOR = {"sw": np.float32(0.01), "zw": np.int8(0)}
RECIPROCAL = np.float32(1.0) / SX


def model(
    body: str,
    *,
    inputs: str = "float[N, 3] x",
    outputs: str = "float[N, 2] y",
    opset: int = 17,
    functions: str = "",
    **arrays: Array,
) -> onnx.ModelProto:
    """Parse a model; body is its nodes, arrays its initializers (those of LAYER unless given)."""
    domains = f'"" : {opset}' + (', "local" : 1' if functions else "")
    version = 10 if opset >= 21 else 8
    text = f"<ir_version: {version}, opset_import: [{domains}]> "
    parsed = onnx.parser.parse_model(f"{text} g ({inputs}) => ({outputs}) {{ {body} }} {functions}")
    for name, array in (LAYER | arrays).items():
        if array is not None and name in body:
            tensor = array if isinstance(array, onnx.TensorProto) else _tensor(array, name)
            parsed.graph.initializer.append(tensor)
    return parsed


def _tensor(array: Array, name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def with_inputs(proto: onnx.ModelProto, *names: str, ir_version: int) -> onnx.ModelProto:
    """Make initializers, all of them unless named, inputs of the model too."""
    proto.ir_version = ir_version
    for tensor in proto.graph.initializer:
        if not names or tensor.name in names:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.append(info)
    return proto


def save(proto: onnx.ModelProto, folder: Path, name: str = "inter.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path)
    return path


def read(proto: onnx.ModelProto, folder: Path) -> tuple[list[QuantizedLayer], list[FloatOperator]]:
    """What the reader finds in a model."""
    return read_layers(read_model(save(proto, folder)).graph)


def the_layer(proto: onnx.ModelProto, folder: Path) -> QuantizedLayer:
    """The only operator of a model, which the reader takes for a layer."""
    (layer,), floats = read(proto, folder)
    assert not floats
    return layer


def the_reason(proto: onnx.ModelProto, folder: Path) -> str:
    """Why the only operator of a model is left in float."""
    layers, (operator,) = read(proto, folder)
    assert not layers
    return operator.reason


def codes(x: Array, scale: Array, zero_point: Array) -> Array:
    """The integers x is quantized to, counted from the zero point, as int64."""
    info = np.iinfo(zero_point.dtype)
    rounded = np.rint(x / scale).astype(np.float64) + int(zero_point)
    return np.clip(rounded, info.min, info.max).astype(np.int64) - int(zero_point)


def rescaled(sums: Array, scale_x: Array, scale_w: Array, bias: Array | None = None) -> Array:
    """What a layer makes of its exact sums; channels are on the last axis."""
    rescale = (np.float32(scale_x) * scale_w).astype(np.float32)
    if bias is not None:
        sums = sums + np.rint(bias / rescale).astype(np.int64)
    return sums.astype(np.float32) * rescale


def batch(rows: int = 7, columns: int = 3, *, seed: int = 0) -> Array:
    """Inputs, some of them beyond what SX and ZX can hold."""
    return np.random.default_rng(seed).normal(0.0, 4.0, (rows, columns)).astype(np.float32)


def convolution(op: str = "Conv", **more: Array) -> onnx.ModelProto:
    """A model of one convolution over images of two channels."""
    kernel = np.array([[100, -3], [7, -128]], np.int8).reshape(2, 2, 1, 1)
    axis = int(op == "ConvTranspose")
    return model(
        f"xq = QuantizeLinear (x, sx, zx) xd = DequantizeLinear (xq, sx, zx) "
        f"wd = DequantizeLinear <axis = {axis}> (w, sw, zw) "
        f"[conv] y = {op} <pads = [1, 1, 0, 0]> (xd, wd, b)",
        inputs="float[N, 2, H, V] x",
        outputs="float[N, 2, H2, V2] y",
        w=kernel,
        b=BIAS,
        **more,
    )
