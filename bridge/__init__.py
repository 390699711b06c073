"""Quantization-aware training in torch, and the ONNX models that compute what training computed."""

from bridge.calibrate import calibrate
from bridge.export.convert import Conversion, convert_qat_model
from bridge.export.errors import ConversionError
from bridge.export.verify import Verification, verify
from bridge.modules import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
    MatMulQAT,
)
from bridge.prepare import LayerPlan, float_model, plan_qat, prepare_qat

__all__ = [
    "Conv1dQAT",
    "Conv2dQAT",
    "Conv3dQAT",
    "ConvTranspose1dQAT",
    "ConvTranspose2dQAT",
    "Conversion",
    "ConversionError",
    "LayerPlan",
    "LinearQAT",
    "MatMulQAT",
    "Verification",
    "calibrate",
    "convert_qat_model",
    "float_model",
    "plan_qat",
    "prepare_qat",
    "verify",
]
