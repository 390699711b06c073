"""The quantized operator as one autograd Function: as little memory as float training, few passes.

Index:
    function            the Function, its backward and what transforms get instead
    grid                the integers that a tensor is rounded to, and rounding to them in place
    int8_trial          trying which shapes INT8 instructions sum rightly and faster
    int8_sums           sums of integers in INT8 where the shape has earned it
    range_gradients     gradients of an input and of its range
    kernels             the arithmetic of forward and backward
"""

from qatfunc.fused.function import fused_op
from qatfunc.fused.int8_sums import int8_forward

__all__ = ["fused_op", "int8_forward"]
