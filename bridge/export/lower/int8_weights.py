"""Which layers may keep int8 weights beside uint8 activations (option `vnni`).

    ConvInteger | MatMulInteger | QLinearConv (uint8 weight, zero point 128)
        becomes
    the same operator (int8 weight, zero point 0)

On processors that sum uint8 x int8 products in 32 bits this is exact and fastest. ARM64 shifts
activations by -128 and multiplies int8 by int8. Its kernels without a dot product, and the
depthwise kernel on all processors, add two products in 16 bits, which overflow for only one pair:
(-128)(-128) + (-128)(-128). That needs two weights of -128 in one output channel; such layers keep
uint8 weights.
"""

from bridge.export.read.layer import QuantizedLayer, output_rows

_LOWEST = -128


def may_be_int8(layer: QuantizedLayer) -> bool:
    """Whether no output channel of a layer has two weights of -128.

    Args:
        layer: the quantized layer.
    """
    rows = output_rows(layer.weight, layer.op, layer.groups)
    return bool((rows <= _LOWEST).sum(axis=1).max(initial=0) < 2)
