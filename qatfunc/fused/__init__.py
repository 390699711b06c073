"""The quantized operator as one autograd Function, which needs as little memory as the float one.

Index:
    grid                the integers that a tensor is rounded to, and rounding to them in place
    range_gradients     gradients of an input and of its range
    int8_trial          finding the shapes for which INT8 products are exact and faster
    int8_sums           products of integers in INT8, for these shapes
    kernels             the arithmetic of forward and backward
    function            the Function, its backward, and their derivatives and batching rules
"""

from qatfunc.fused.function import fused_op
from qatfunc.fused.int8_sums import int8_forward

__all__ = ["fused_op", "int8_forward"]
