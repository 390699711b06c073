"""Matrix products of two quantized activations in the Ascend dialect.

a, b -> QuantizeLinear -> DequantizeLinear -> MatMul -> y
becomes, in fake-quant,
a, b -> Mul(1 / scale) -> Round -> Clip -> MatMul -> Cast(int32) -> Cast(float32)
-> Mul(scale_a * scale_b) -> y
and in deploy
a, b -> AscendQuant -> MatMul -> AscendDequant -> y
"""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.lower.products import write_product_epilogue
from bridge.export.read.products import QuantizedProduct
from bridge.export.targets.ascend.dialect import ascend_input, reciprocal_input


def write_ascend_fake_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write the fake-quant form of a product, with the arithmetic of the Ascend dialect.

    Args:
        builder: writes the nodes.
        product: the product.
    """
    centered = [
        reciprocal_input(builder, product.name, operand.x_q, operand.scale, operand.zero_point)
        for operand in product.operands
    ]
    sums = builder.op("MatMul", *centered)
    write_product_epilogue(builder, product, builder.op("Cast", sums, to=ir.DataType.INT32))


def write_ascend_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write the deploy form of a product in the Ascend dialect.

    Args:
        builder: writes the nodes.
        product: the product.
    """
    quantized = [
        ascend_input(builder, product.name, operand.x_q, operand.scale, operand.zero_point)
        for operand in product.operands
    ]
    scale = np.array([product.rescale], np.float32).view(np.uint32).astype(np.uint64)
    y = builder.op("AscendDequant", builder.op("MatMul", *quantized), scale, dtype=0)
    builder.replace_output(y)
