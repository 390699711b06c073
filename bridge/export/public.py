"""The names of the converter for users, each imported at its first use."""

import sys
from collections.abc import Callable
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


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that has these names.

    Args:
        package: its `__name__`.
    Returns:
        what Python calls for a name that the package has not by itself: it imports the name, or
        raises AttributeError; and what lists the package's names.
    """

    def find(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *_MODULES})

    return find, names
