"""The quantized operator as one autograd Function: as little memory as float training, few passes.

Index:
    grid                the integers that a tensor is rounded to, and rounding to them in place
    range_gradients     gradients of an input and of its range
    int8_trial          trying which shapes INT8 instructions sum rightly and faster
    int8_sums           sums of integers in INT8 where the shape has earned it
    kernels             the arithmetic of forward and backward
    function            the Function, its backward and what transforms get instead
"""

from qatfunc.fused.function import fused_op
from qatfunc.fused.int8_sums import int8_forward

__all__ = ["fused_op", "int8_forward"]
