"""Quantization-aware training as pure functions over tensors.

Index, each importing only what is above it:
    version         of both packages
    spec, params    static descriptions; NamedTuples of tensors
    limits          what numbers can hold, and which scales and ranges are of use
    numerics        torch's private names, where values may be read, autocast, float32 arithmetic
    affine, ste     quantize and dequantize; straight-through gradients
    linear_maps     linear and convolutions with their gradients, output channels, padding
    arq, lsq, ulq   weight scales, trained weight scales, trained activation ranges
    calibration     the first range of an activation: init, update, merge, finish
    composed        quantized operators as plain functions
    fused           the same as one autograd Function
    operators       linear, conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, matmul
    codes           operators between quantizers, on integer codes, and their proofs
    model           whole networks as init, calibrate, finish, apply
"""

from qatfunc import calibration, codes, operators
from qatfunc.affine import dequantize, fake_quantize, quantize, quantize_centered
from qatfunc.arq import arq_qparams, arq_quantize
from qatfunc.calibration import CalibrationState
from qatfunc.calibration.clip_search import ClipSearch
from qatfunc.fused import int8_forward
from qatfunc.lsq import lsq_quantize, resolve_scale
from qatfunc.params import Adopted, Clip, QParams
from qatfunc.spec import ActivationSpec, IntSpec, LayerSpec, SearchSpec, WeightSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import resolve_clip, ulq_qparams, ulq_quantize
from qatfunc.version import __version__

__all__ = [
    "ActivationSpec",
    "Adopted",
    "CalibrationState",
    "Clip",
    "ClipSearch",
    "IntSpec",
    "LayerSpec",
    "QParams",
    "SearchSpec",
    "WeightSpec",
    "__version__",
    "arq_qparams",
    "arq_quantize",
    "calibration",
    "codes",
    "dequantize",
    "fake_quantize",
    "int8_forward",
    "lsq_quantize",
    "operators",
    "quantize",
    "quantize_centered",
    "resolve_clip",
    "resolve_scale",
    "straight_through",
    "ulq_qparams",
    "ulq_quantize",
]
