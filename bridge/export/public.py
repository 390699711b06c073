"""The names of the converter that `bridge` has, each imported at its first use."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Conversion": "bridge.export.result.conversion",
    "ConversionError": "bridge.export.graph.errors",
    "Explanation": "bridge.export.result.explanation",
    "LayerExplanation": "bridge.export.result.explanation",
    "Tuning": "bridge.export.plan.tune",
    "Verification": "bridge.export.result.verify.verification",
    "ascend": "bridge.export.targets.table",
    "ascend_twin": "bridge.export.targets.ascend.twin",
    "convert_qat_model": "bridge.export.convert",
    "explain": "bridge.export.result.explain",
    "ort": "bridge.export.targets.table",
    "qdq": "bridge.export.targets.table",
    "sums_int8_exactly": "bridge.export.running.int8_probe",
    "verify": "bridge.export.result.verify.verify",
}


def __getattr__(name: str) -> Any:
    """Import a name; Python calls this for what `bridge` has not by itself.

    Args:
        name: any.
    Returns:
        what the converter calls so.
    Raises:
        AttributeError: neither has such a name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
