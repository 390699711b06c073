"""The portable form: activations in Q/DQ pairs, weights and biases as stored integers.

    x -> QuantizeLinear -> DequantizeLinear ----------------------------------+
    weight, float32 -> QuantizeLinear -> DequantizeLinear(scale_w) -----------+-> operator -> y
    bias, float32 ------------------------------------------------------------+
        becomes
    x -> QuantizeLinear -> DequantizeLinear ------------------------+
    weight, int8 ------> DequantizeLinear(scale_w) -----------------+-> operator -> y
    bias, int32 -------> DequantizeLinear(scale_x * scale_w) -------+

which runtimes recognize as a quantized layer. The operator is that of the file: Conv,
ConvTranspose, Gemm, or MatMul with an Add for its bias.

Per-channel scales are on axis 0 of a Conv's weight, on axis 1 of a ConvTranspose's and a matrix's.
The weight of a grouped ConvTranspose is (in, out/groups, ...), and no axis holds its channels. Its
scales are on axis 1 if they are equal in all groups, on axis 0 if each group has one channel.
Otherwise the weight is stored with one channel per row, and Reshape and Transpose after its
DequantizeLinear restore its shape.

Zero points are always written: without one, QuantizeLinear's output is uint8. With symmetric ranges
(`asymmetric: False`) they are all 0, as TensorRT requires. Its parser has been reported to refuse
the DequantizeLinear of an int32 bias, which other runtimes need to compute in integers.

Integers and scales equal those of the fake-quant model, so converting the written file again gives
a fake-quant model with the same bits. Outputs depend on how the runtime computes the operator. In
float32, in the order written here, y differs from fake-quant's by at most

    gamma(K + 6) * A * scale_x * scale_w,        gamma(n) = n u / (1 - n u),  u = 2^-24

where K is the number of products in a sum, and A the sum of the magnitudes of the integer products
and the bias. K + 6 counts the roundings: 3 of a product or of the bias, K of the sum, and 3 of
fake-quant. The next quantizer's code then differs only where a value is that close to a tie. A
runtime that fuses the operator with the next quantizer rounds in its own way, and its codes differ
by one step for a few more values.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.geometry.output_padding import with_valid_output_padding
from bridge.export.graph.builder import Builder, add_initializer, graph_of
from bridge.export.graph.constants import Array, constant, name_of
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.names import LAYER_KEY
from bridge.export.graph.operators import zero_point_input
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.qdq import NotQuantizedError, read_quantized_constant
from bridge.export.read.zero_points import has_one_zero_point, uint8_zero_point


def write_qdq(builder: Builder, layer: QuantizedLayer) -> None:
    """Write a layer with an int8 weight and an int32 bias; its input keeps its Q/DQ pair.

    Args:
        builder: writes the nodes.
        layer: the layer, without a folded BatchNormalization.
    """
    one = with_valid_output_padding(layer)
    x, weight, attributes = _input(layer), _weight(builder, layer, one.weight), one.attributes
    op_type = layer.node.op_type
    bias = layer.bias
    if bias is not None and layer.correction is not None:
        # The input's Q/DQ pair keeps its per-channel zero points, so undo the bias correction.
        bias = (bias - layer.correction).astype(np.int32)
    if bias is None:
        y = builder.op(op_type, x, weight, **attributes)
    elif op_type == "MatMul":
        y = builder.op("Add", builder.op("MatMul", x, weight), _bias(builder, layer, bias))
    else:
        y = builder.op(op_type, x, weight, _bias(builder, layer, bias), **attributes)
    builder.replace_output(y)


def store_quantized_constants(graph: ir.Graph) -> None:
    """Replace the QuantizeLinear of constants by initializers; the DequantizeLinear nodes stay.

    Args:
        graph: after all layers are written and unused nodes removed, so that the remaining
            constants are operands of float operators.
    """
    for node in list(RecursiveGraphIterator(graph)):
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            continue
        quantize = node.inputs[0].producer()
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        try:
            integers, _, _ = read_quantized_constant(node)
        except NotQuantizedError:
            continue  # an activation, or an invalid pair, which no layer reads
        stored = add_initializer(graph_of(node), f"{node.inputs[0].name}_integers", integers)
        node.replace_input_with(0, stored)


def check_symmetric(graph: ir.Graph) -> None:
    """Raise unless activations are int8 or int16, weights int8, and all zero points 0.

    Args:
        graph: of the finished deploy model.
    Raises:
        ConversionError: one is not; names the layers that read it, or the node if none does.
    """
    found = []
    for node in RecursiveGraphIterator(graph):
        stored = node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None
        if node.op_type != "QuantizeLinear" and not stored:
            continue
        default = np.zeros(1, np.int8 if stored else np.uint8)
        given = zero_point_input(node)
        zero = default if given is None else constant(given)
        if zero is None or (zero.dtype.kind == "i" and not zero.any()):
            continue
        pairs = [node] if stored else [use.node for use in node.outputs[0].uses()]
        readers = [use.node for pair in pairs for value in pair.outputs for use in value.uses()]
        names = [r.metadata_props[LAYER_KEY] for r in readers if LAYER_KEY in r.metadata_props]
        what = f"layer {names[0]!r}" if names else f"node {name_of(node)!r}"
        found.append(f"{what} ({zero.dtype} {zero.ravel()[0]})")
    if found:
        raise ConversionError(
            f"inputs or weights with zero points: {', '.join(found)}; a symmetric model needs "
            "layers trained with retrain_data_config['asymmetric'] = False"
        )


def _input(layer: QuantizedLayer) -> ir.Value:
    """Return the layer's input: OpenVINO recognizes a Q/DQ pair only where it is left whole."""
    value = layer.node.inputs[0]
    if value is None:
        raise ConversionError(f"layer {layer.name!r}: its operator has no input")
    return value


def _weight(builder: Builder, layer: QuantizedLayer, weight: Array) -> ir.Value:
    one_zero = has_one_zero_point(weight)
    if layer.op != "ConvTranspose" or (layer.scale_w.size == 1 and one_zero):
        return _dequantized(builder, weight, layer.scale_w, axis=int(layer.op == "MatMul"))
    scale_w = np.broadcast_to(layer.scale_w, layer.groups * weight.shape[1])
    by_group = scale_w.reshape(layer.groups, -1)
    if (by_group == by_group[0]).all() and (one_zero or layer.groups == 1):
        return _dequantized(builder, weight, by_group[0], axis=1)
    inputs, channels = weight.shape[0] // layer.groups, weight.shape[1]
    if channels == 1 and one_zero:
        return _dequantized(builder, weight, np.repeat(scale_w, inputs), axis=0)
    split = weight.reshape(layer.groups, inputs, channels, *weight.shape[2:])
    rows = np.swapaxes(split, 1, 2)
    stored = rows.reshape(layer.groups * channels, inputs, *weight.shape[2:])
    value = _dequantized(builder, stored, scale_w, axis=0)
    value = builder.op("Reshape", value, np.array(rows.shape, np.int64))
    value = builder.op("Transpose", value, perm=[0, 2, 1, *range(3, rows.ndim)])
    return builder.op("Reshape", value, np.array(weight.shape, np.int64))


def _bias(builder: Builder, layer: QuantizedLayer, bias: Array) -> ir.Value:
    return _dequantized(builder, bias, layer.rescale, axis=0)


def _dequantized(builder: Builder, integers: Array, scale: Array, *, axis: int) -> ir.Value:
    # DequantizeLinear of int32 takes no zero point.
    zeros = [] if integers.dtype == np.int32 else [np.zeros(scale.shape, integers.dtype)]
    if integers.dtype == np.int16:
        integers, scale, zeros[0] = _bytes(integers, scale, axis)
    if scale.size == 1:
        scale, zeros = scale.reshape(()), [zero.reshape(()) for zero in zeros]
    on_axis: dict[str, Any] = {"axis": axis} if scale.size > 1 else {}
    return builder.op("DequantizeLinear", integers, scale, *zeros, **on_axis)


def _bytes(weight: Array, scale: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return a weight that exceeds int8 as uint8, with its scale and zero point, or per channel."""
    if has_one_zero_point(weight):
        zero = np.full(scale.shape, uint8_zero_point(weight), np.uint8)
        return (weight + zero.ravel()[0]).astype(np.uint8), scale, zero
    rows = np.moveaxis(weight, axis, 0)
    zero = np.array([uint8_zero_point(row) for row in rows], np.uint8)
    codes = rows + zero.reshape(-1, *(1,) * (rows.ndim - 1))
    scale = np.broadcast_to(scale, zero.shape)
    return np.ascontiguousarray(np.moveaxis(codes, 0, axis).astype(np.uint8)), scale, zero
