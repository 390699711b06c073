"""Quantization-aware training in torch, and the ONNX models that compute what training computed.

`__all__` has what the main path takes: prepare, calibrate, convert, verify. All else is in the
modules below; those of layers, optimizers, switches, functions, BatchNorm and the export list their
names. A name that is here and not in `__all__` is a second spelling of such a one.

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
    calibration     finding ranges without training
    sensitivities   which layers cost accuracy
    export          from ONNX file to fake-quant and deploy model, and the proof that they agree
    adoption        what a conversion adjusted, back in the torch model
    amct            AMCT's import paths
    cli             the command line
"""

from typing import TYPE_CHECKING

from bridge.adoption import adopt
from bridge.batch_norm import fold_batch_norm
from bridge.calibration import calibrate
from bridge.functional import functionalize
from bridge.prepare import float_model, prepare_qat
from bridge.selection import plan_qat
from bridge.sensitivities import sensitivity
from bridge.switches import set_quantization
from qatfunc.version import __version__

# isort: split
# Second spellings.
from bridge.batch_norm import NormPlan as NormPlan
from bridge.batch_norm import bake_batch_norm as bake_batch_norm
from bridge.batch_norm import plan_batch_norm as plan_batch_norm
from bridge.functional import to_module as to_module
from bridge.layer_classes import register_layer as register_layer
from bridge.modules import Conv1dQAT as Conv1dQAT
from bridge.modules import Conv2dQAT as Conv2dQAT
from bridge.modules import Conv3dQAT as Conv3dQAT
from bridge.modules import ConvTranspose1dQAT as ConvTranspose1dQAT
from bridge.modules import ConvTranspose2dQAT as ConvTranspose2dQAT
from bridge.modules import LinearQAT as LinearQAT
from bridge.modules import MatMulQAT as MatMulQAT
from bridge.optim import average_whole_gradients as average_whole_gradients
from bridge.optim import parameter_groups as parameter_groups
from bridge.optim import whole_parameters as whole_parameters
from bridge.selection import LayerPlan as LayerPlan
from bridge.sensitivities import LayerSensitivity as LayerSensitivity
from bridge.switches import freeze_clips as freeze_clips
from bridge.switches import freeze_weight_scales as freeze_weight_scales
from bridge.switches import frozen_clips as frozen_clips
from bridge.switches import frozen_weight_scales as frozen_weight_scales
from bridge.switches import quantization as quantization

if TYPE_CHECKING:
    from bridge.export import (
        ConversionError,
        ascend,
        convert_qat_model,
        explain,
        ort,
        qdq,
        verify,
    )

    # isort: split
    from bridge.export import Conversion as Conversion
    from bridge.export import Explanation as Explanation
    from bridge.export import LayerExplanation as LayerExplanation
    from bridge.export import Tuning as Tuning
    from bridge.export import Verification as Verification
    from bridge.export import ascend_twin as ascend_twin
    from bridge.export import sums_int8_exactly as sums_int8_exactly
else:
    # onnx and ONNX Runtime take longer to import than all else but torch, and training needs none.
    from bridge.export.public import lazily

    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "ConversionError",
    "__version__",
    "adopt",
    "ascend",
    "calibrate",
    "convert_qat_model",
    "explain",
    "float_model",
    "fold_batch_norm",
    "functionalize",
    "ort",
    "plan_qat",
    "prepare_qat",
    "qdq",
    "sensitivity",
    "set_quantization",
    "verify",
]
