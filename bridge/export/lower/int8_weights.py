"""int8 weights beside uint8 activations, for processors that sum their products in 32 bits.

ARM64 counts activations 128 lower and sums products of int8 by int8. Kernels there that have no dot
product, and the depthwise kernel on all processors, add two products in 16 bits. These hold every
pair of products but (-128)(-128) + (-128)(-128): the code 0 met twice by a weight of -128. So a
layer keeps int8 weights where no output channel has two of -128, and gets uint8 ones otherwise.
"""

from bridge.export.read.layer import QuantizedLayer, output_rows

_LOWEST = -128


def may_be_int8(layer: QuantizedLayer) -> bool:
    """Whether no output channel of a layer has two weights of -128.

    Args:
        layer: as read.
    """
    rows = output_rows(layer.weight, layer.op, layer.groups)
    return bool((rows <= _LOWEST).sum(axis=1).max(initial=0) < 2)
