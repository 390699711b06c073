"""Quantized operators: pure functions of (x, params, spec) that sum integers exactly.

    acc = op(q_x - zero_point_x, q_w) + round(bias / (scale_x * scale_w))
    y   = float32(acc) * (scale_x * scale_w)

The operator runs on integer-VALUED floats. While its sums stay below 2^24 they are exact in any
order, so an int32 accumulator, torch and ONNX Runtime's float kernels give the same bits. The
bias is added afterwards, in one rounding, as a conversion of the int32 sum to float would be.

params is a dict, a pytree that can be differentiated, optimised and saved as it is:
    "weight"        float32, always
    "bias"          float32 (out,), optional
    "clip"          Clip, optional; without it activations pass unquantized (calibration)
    "weight_scale"  float32 (out,) or (1,), optional; a trained scale (LSQ) instead of ARQ's
    "adopted"       Adopted, optional; what the sums are multiplied by instead of the scales

Index:
    arguments       what is refused of operands, parameters and specs
    dispatch        one autograd Function, or a composition of plain functions
    products        linear, matmul
    convolutions    conv1d, conv2d, conv3d
    transposed      conv_transpose1d, conv_transpose2d
"""

from qatfunc.operators.convolutions import conv1d, conv2d, conv3d
from qatfunc.operators.products import linear, matmul
from qatfunc.operators.transposed import conv_transpose1d, conv_transpose2d

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "linear",
    "matmul",
]
