"""Quantization-aware training in torch, and the ONNX models that compute what training computed.

`__all__` has the functions of the usual workflow: prepare, calibrate, convert, verify. All others
are in the modules below; their `__all__` lists the names for users. A name in this module that is
not in `__all__` is an alias of such a one.

Index, each importing only what is above it:
    report          results that print as tables and convert to JSON data
    arguments       type checks of arguments
    operators       the table of operators and their limits
    distributed     collectives of calibration
    layer_classes   rules for layers of other classes than torch's own
    config          reading configurations
    modules         QAT operators as torch modules
    optim           parameter groups for optimizers; gradients under FSDP
    switches        freezing ranges and scales, turning quantization off
    functional      models as pure functions
    selection       which layers are quantized, and why others are not
    batch_norm      folding BatchNorm
    prepare         replacing float layers by QAT layers, and back
    calibration     finding ranges without training
    sensitivities   sensitivity of the output to each layer's weight bits and input range
    export          ONNX file -> fake-quant and deploy model, and the proof that they agree
    adoption        using the rescales that a conversion adjusted in the torch model
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
# Aliases.
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
    # Training needs neither onnx nor ONNX Runtime, whose imports are the slowest after torch's.
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
