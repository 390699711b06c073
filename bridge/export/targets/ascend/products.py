"""Products of two quantized activations in the Ascend dialect."""

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.lower.products import write_product_epilogue
from bridge.export.read.products import QuantizedProduct
from bridge.export.targets.ascend.dialect import ascend_input, reciprocal_input


def write_ascend_fake_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write the fake-quant twin of a product in the Ascend dialect.

    Args:
        builder: writes the nodes.
        product: the product.
    """
    counted = [
        reciprocal_input(builder, product.name, operand.x_q, operand.scale, operand.zero_point)
        for operand in product.operands
    ]
    sums = builder.op("MatMul", *counted)
    write_product_epilogue(builder, product, builder.op("Cast", sums, to=ir.DataType.INT32))


def write_ascend_product(builder: Builder, product: QuantizedProduct) -> None:
    """Write a product in the Ascend dialect.

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
