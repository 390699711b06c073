"""From a QDQ model to a fake-quant and a deploy model, and the proof that they agree.

Index, each importing only what is above it:
    graph           reading and writing graphs with onnx_ir
    files           loading, checking and writing files
    read            QDQ graph -> records of quantized layers and products
    geometry        equivalent forms of convolutions and pools, in numpy
    normalize       a file -> the one form of QDQ graph that read expects
    running         running models on this machine
    passes          graph -> graph
    requantization  what is proven: equal step functions of the sums
    lower           layers as numbers -> nodes
    plan            which form each layer takes
    fast            mode "fast": rounding what integer operators read
    targets         one class a target
    result          what was done, and verifying it
    pipeline        one model -> two, in memory
    convert         convert_qat_model: one file -> two
    public          the names of these for users, imported at their first use
"""

from typing import TYPE_CHECKING

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
    from bridge.export.public import lazily

    __getattr__, __dir__ = lazily(__name__)

__all__ = [
    "Conversion",
    "ConversionError",
    "Explanation",
    "LayerExplanation",
    "Tuning",
    "Verification",
    "ascend",
    "ascend_twin",
    "convert_qat_model",
    "explain",
    "ort",
    "qdq",
    "sums_int8_exactly",
    "verify",
]
