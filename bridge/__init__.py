"""Quantization-aware training in torch, and the ONNX models that compute what training computed."""

from bridge.adopt import adopt
from bridge.batch_norm import bake_batch_norm, fold_batch_norm
from bridge.calibrate import calibrate
from bridge.export.ascend_twin import ascend_twin
from bridge.export.convert import convert_qat_model
from bridge.export.errors import ConversionError
from bridge.export.explain import Explanation, LayerExplanation, explain
from bridge.export.int8_probe import sums_int8_exactly
from bridge.export.summary import Conversion
from bridge.export.tune import Tuning
from bridge.export.verify import Verification, verify
from bridge.functional import functionalize, to_module
from bridge.modules import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
    MatMulQAT,
)
from bridge.norm_plan import NormPlan, plan_batch_norm
from bridge.parameters import average_whole_gradients, parameter_groups, whole_parameters
from bridge.plan import LayerPlan, plan_qat
from bridge.prepare import float_model, prepare_qat
from bridge.sensitivity import LayerSensitivity, sensitivity
from bridge.subclasses import register_layer
from bridge.switches import (
    freeze_clips,
    freeze_weight_scales,
    frozen_clips,
    frozen_weight_scales,
    quantization,
    set_quantization,
)
from qatfunc.version import __version__

__all__ = [
    "Conv1dQAT",
    "Conv2dQAT",
    "Conv3dQAT",
    "ConvTranspose1dQAT",
    "ConvTranspose2dQAT",
    "Conversion",
    "ConversionError",
    "Explanation",
    "LayerExplanation",
    "LayerPlan",
    "LayerSensitivity",
    "LinearQAT",
    "MatMulQAT",
    "NormPlan",
    "Tuning",
    "Verification",
    "__version__",
    "adopt",
    "ascend_twin",
    "average_whole_gradients",
    "bake_batch_norm",
    "calibrate",
    "convert_qat_model",
    "explain",
    "float_model",
    "fold_batch_norm",
    "freeze_clips",
    "freeze_weight_scales",
    "frozen_clips",
    "frozen_weight_scales",
    "functionalize",
    "parameter_groups",
    "plan_batch_norm",
    "plan_qat",
    "prepare_qat",
    "quantization",
    "register_layer",
    "sensitivity",
    "set_quantization",
    "sums_int8_exactly",
    "to_module",
    "verify",
    "whole_parameters",
]
