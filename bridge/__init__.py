"""Quantization-aware training in torch, and the ONNX models that compute what training computed.

Index, each importing only what is above it:
    report          how results print, and turn into data
    arguments       arguments of a wrong kind
    operators       the table of operators and their limits
    distributed     what processes exchange while they calibrate
    layer_classes   what layers of other classes than torch's own compute
    config          the one reader of configurations
    modules         QAT operators as torch modules
    optim           the parameters of quantization, for optimizers and distributed training
    switches        freezing ranges and scales, turning quantization off
    functional      modules as pure functions
    selection       which layers are quantized, and why others are not
    batch_norm      folding BatchNorm
    prepare         replacing layers by QAT operators, and back
    calibrate       finding ranges without training
    sensitivity     which layers cost accuracy
    export          from ONNX file to fake-quant and deploy model, and the proof that they agree
    adopt           what a conversion adjusted, back in the torch model
    amct            AMCT's import paths
    cli             the command line
"""

from typing import TYPE_CHECKING

from bridge.adopt import adopt
from bridge.batch_norm.fold import bake_batch_norm, fold_batch_norm
from bridge.batch_norm.plan import NormPlan, plan_batch_norm
from bridge.calibrate import calibrate
from bridge.functional import functionalize, to_module
from bridge.layer_classes.registry import register_layer
from bridge.modules import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
    MatMulQAT,
)
from bridge.optim import average_whole_gradients, parameter_groups, whole_parameters
from bridge.prepare import float_model, prepare_qat
from bridge.selection.plan import LayerPlan, plan_qat
from bridge.sensitivity import LayerSensitivity, sensitivity
from bridge.switches import (
    freeze_clips,
    freeze_weight_scales,
    frozen_clips,
    frozen_weight_scales,
    quantization,
    set_quantization,
)
from qatfunc.version import __version__

if TYPE_CHECKING:
    from bridge.export.convert import convert_qat_model
    from bridge.export.graph.errors import ConversionError
    from bridge.export.plan.tune import Tuning
    from bridge.export.result.conversion import Conversion
    from bridge.export.result.explain import explain
    from bridge.export.result.explanation import Explanation, LayerExplanation
    from bridge.export.result.verify.verification import Verification
    from bridge.export.result.verify.verify import verify
    from bridge.export.running.int8_probe import sums_int8_exactly
    from bridge.export.targets.ascend.twin import ascend_twin
    from bridge.export.targets.table import ascend, ort, qdq
else:
    # onnx and ONNX Runtime take longer to import than all else but torch, and training needs none.
    from bridge.export.public import __getattr__ as __getattr__

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
    "ascend",
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
    "ort",
    "parameter_groups",
    "plan_batch_norm",
    "plan_qat",
    "prepare_qat",
    "qdq",
    "quantization",
    "register_layer",
    "sensitivity",
    "set_quantization",
    "sums_int8_exactly",
    "to_module",
    "verify",
    "whole_parameters",
]
