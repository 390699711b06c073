"""Names of a package that are imported at their first use."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which Python calls for names that the package has not yet.

    Args:
        package: its `__name__`.
        modules: the module in which each name is defined.
    Returns:
        a function of a name: it imports the module and keeps what it found in the package. It
        raises AttributeError for other names.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(modules[name]), name)
        vars(sys.modules[package])[name] = found
        return found

    return find
