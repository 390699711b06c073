"""Quantization-aware training as pure functions over tensors."""

from qatfunc import calibration, operators
from qatfunc.affine import dequantize, fake_quantize, quantize, quantize_centered
from qatfunc.arq import arq_qparams, arq_quantize
from qatfunc.calibration import CalibrationState
from qatfunc.clip_search import ClipSearch
from qatfunc.int8_sums import int8_forward
from qatfunc.lsq import lsq_quantize, resolve_scale
from qatfunc.params import Adopted, Clip, QParams
from qatfunc.spec import ActivationSpec, IntSpec, LayerSpec, SearchSpec, WeightSpec
from qatfunc.ste import straight_through
from qatfunc.ulq import resolve_clip, ulq_qparams, ulq_quantize

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
    "arq_qparams",
    "arq_quantize",
    "calibration",
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
