"""Quantized operators: pure functions of (x, params, spec) that sum integers exactly.

    acc = op(q_x - zero_point_x, q_w) + round(bias / (scale_x * scale_w))
    y   = float32(acc) * (scale_x * scale_w)

The operator computes on integer-valued floats. Sums below 2^24 are exact in any order, so int32
accumulators, torch and ONNX Runtime's float kernels give the same bits. The bias is added to the
sum in one rounding, as an int32 sum with its bias is rounded once when it is converted to float.

params is a dict, a pytree that can be differentiated, optimised and saved as it is:
    "weight"        float32, always
    "bias"          float32 (out,), optional
    "clip"          Clip, optional; without it the input is not quantized (during calibration)
    "weight_scale"  float32 (out,) or (1,), optional; a trained scale (LSQ) instead of ARQ's
    "adopted"       Adopted, optional; adjusted factors that rescale the sums

Index:
    arguments       checks of operands, parameters and specs
    dispatch        the fused autograd Function, or a composition of plain functions
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
