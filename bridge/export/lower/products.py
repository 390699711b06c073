"""Matrix products of two quantized activations, in float and in integers.

    a_q -> DequantizeLinear -+
    b_q -> DequantizeLinear -+-> MatMul -> y
        becomes, in fake-quant,
    a_q -> Cast(float32) -> Sub(zero_a) -+
    b_q -> Cast(float32) -> Sub(zero_b) -+-> MatMul -> Cast -> Cast(float32) -> Mul(scale_a scale_b)
        and in deploy
    a_q, b_q -> MatMulInteger(zero_a, zero_b) -> Cast -> Cast(float32) -> Mul(scale_a scale_b)

The first Cast is to int32, or to int64 for 16-bit operands, whose bytes are multiplied separately.
Fake-quant subtracts zero points with a Sub, because ONNX Runtime fuses DequantizeLinear nodes on
both operands with the MatMul into an operator that is not exact on every processor.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.constants import Array
from bridge.export.lower.int8 import write_uint8_input
from bridge.export.lower.int16 import join_halves, split_codes
from bridge.export.read.products import Operand, QuantizedProduct


def write_fake_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write the fake-quant form of a product, a MatMul of integer-valued float32.

    Args:
        builder: writes the nodes.
        product: the product.
    """

    def centered(code: ir.Value, zero: Array) -> ir.Value:
        return builder.op("Sub", builder.op("Cast", code, to=ir.DataType.FLOAT), np.float32(zero))

    def multiply(a: _Part, b: _Part) -> ir.Value:
        return builder.op("MatMul", centered(*a), centered(*b))

    write_product_epilogue(builder, product, _sums(builder, product, multiply))


def write_integer_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write the deploy form of a product, MatMulInteger on uint8.

    Args:
        builder: writes the nodes.
        product: the product.
    """

    def multiply(a: _Part, b: _Part) -> ir.Value:
        (a_q, zero_a), (b_q, zero_b) = (_unsigned(builder, *part) for part in (a, b))
        return builder.op("MatMulInteger", a_q, b_q, np.uint8(zero_a), np.uint8(zero_b))

    write_product_epilogue(builder, product, _sums(builder, product, multiply))


_Part = tuple[ir.Value, Array]
"""8-bit codes, or one half of 16-bit codes as int32; and their zero point, of the same type."""


def _unsigned(builder: Builder, codes: ir.Value, zero: Array) -> tuple[ir.Value, int]:
    if zero.dtype == np.int32:
        return builder.op("Cast", codes, to=ir.DataType.UINT8), int(zero)
    return write_uint8_input(builder, codes, zero)


def _parts(builder: Builder, operand: Operand) -> list[_Part]:
    if not operand.wide:
        return [(operand.x_q, operand.zero_point)]
    halves = split_codes(builder, operand.x_q, operand.zero_point)
    return [(half, np.asarray(zero, np.int32)) for half, zero in halves]


def _sums(
    builder: Builder, product: QuantizedProduct, multiply: Callable[[_Part, _Part], ir.Value]
) -> ir.Value:
    """Write the accumulators of a product; those of 16-bit codes are 256 * high + low."""
    first, second = (_parts(builder, operand) for operand in product.operands)
    if not product.wide:
        return builder.op("Cast", multiply(first[0], second[0]), to=ir.DataType.INT32)
    rows = [_joined(builder, [multiply(a, b) for b in second]) for a in first]
    return _joined(builder, rows)


def _joined(builder: Builder, halves: list[ir.Value]) -> ir.Value:
    if len(halves) > 1:
        return join_halves(builder, *halves)
    return builder.op("Cast", halves[0], to=ir.DataType.INT64)


def write_product_epilogue(builder: Builder, product: QuantizedProduct, sums: ir.Value) -> None:
    """Replace a product's output by y = float32(sums) * (scale_a * scale_b).

    Args:
        builder: writes the nodes.
        product: the product.
        sums: accumulators, int32 or int64, in the output's shape.
    """
    y = builder.op("Cast", sums, to=ir.DataType.FLOAT)
    builder.replace_output(builder.op("Mul", y, product.rescale))
