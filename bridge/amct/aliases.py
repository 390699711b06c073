"""AMCT's import paths as modules that contain this library's classes and functions.

No package of those names exists on disk: a finder on sys.meta_path creates each module when it is
first imported.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import bridge
from bridge.config.reader import set_default_range_search

TARGETS = ("ort", "qdq", "ascend")
"""The targets of install, the default first."""

ROOTS = ("amct_pytorch", "amct_onnx")
"""The packages that are aliased."""

_QUANTIZATION = {
    "conv1d": bridge.Conv1dQAT,
    "conv2d": bridge.Conv2dQAT,
    "conv3d": bridge.Conv3dQAT,
    "conv_transpose_1d": bridge.ConvTranspose1dQAT,
    "conv_transpose_2d": bridge.ConvTranspose2dQAT,
    "linear": bridge.LinearQAT,
    "matmul": bridge.MatMulQAT,
}
"""The module of each class, below .nn.module.quantization."""

_TORCH_PACKAGES = ("amct_pytorch", "amct_pytorch.classic.graph_based.amct_pytorch")
"""AMCT's torch package: its name in releases, and in the public repository."""


def install(*, target: str = TARGETS[0], force: bool = False) -> None:
    """Make `import amct_pytorch` and `import amct_onnx` resolve to this library.

    Layers built from then on, in the whole process, search their ranges as AMCT does, unless their
    configuration has the key range_search. A second call only changes the target.

    Args:
        target: target of convert_qat_model's deploy models, "ort", "qdq" or "ascend".
        force: take precedence over an installed amct_pytorch or amct_onnx.
    Raises:
        ValueError: the target is unknown.
        ImportError: one of the packages is installed, and force is False.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be {' or '.join(map(repr, TARGETS))}, got {target!r}")
    _finder.point_at(_contents(target))
    if _finder in sys.meta_path:
        return
    found = [root for root in ROOTS if _is_installed(root)]
    if found and not force:
        raise ImportError(
            f"{' and '.join(found)} is installed; bridge.amct would hide it. Uninstall it, or call "
            "install(force=True)"
        )
    _finder.displaced = _take_modules()
    sys.meta_path.insert(0, _finder)
    set_default_range_search("ifmr")


def uninstall() -> None:
    """Undo install: names and the default search are as before; otherwise nothing happens."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    _take_modules()
    sys.modules.update(_finder.displaced)
    _finder.displaced = {}
    set_default_range_search("mse")


class _AliasFinder(MetaPathFinder, Loader):
    """Creates the modules below ROOTS; raises for unknown names, so that no finder is tried."""

    def __init__(self) -> None:
        self.contents: Mapping[str, Mapping[str, Any]] = {}
        self.displaced: dict[str, ModuleType] = {}

    def point_at(self, contents: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the contents of the modules, also of those that are imported already."""
        self.contents = contents
        for name, values in contents.items():
            module = sys.modules.get(name)
            if module is not None and getattr(module.__spec__, "loader", None) is self:
                vars(module).update(values)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return the spec of an alias, None for a name that is not below ROOTS."""
        if fullname.partition(".")[0] not in ROOTS:
            return None
        if fullname not in self.contents:
            # Without the name attribute: with it `from package import name` hides the message.
            raise ModuleNotFoundError(_missing(fullname))
        # Each one is a package: `from module import name` calls the finder only for packages.
        return ModuleSpec(fullname, self, origin="bridge.amct", is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module."""
        module.__doc__ = f"bridge's alias of {module.__name__}."
        vars(module).update(self.contents[module.__name__])
        vars(module)["__getattr__"] = partial(_no_attribute, module.__name__)


def _no_attribute(module: str, name: str) -> Any:
    raise AttributeError(_missing(f"{module}.{name}"))


def _missing(name: str) -> str:
    known = {path: [n for n in values if "." not in n] for path, values in _contents("ort").items()}
    parent = name.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    below = {
        path[len(parent) + 1 :].partition(".")[0]
        for path in known
        if path != parent and path.startswith(f"{parent}.")
    }
    has = sorted({*known.get(parent, []), *below})
    return (
        f"no {name}: this is bridge's alias of {name.partition('.')[0]}, which has the "
        f"quantization-aware operators and convert_qat_model; {parent} has {', '.join(has)}"
    )


def _contents(target: str) -> dict[str, dict[str, Any]]:
    """Return the contents of every module, by its full name."""
    convert: Any = bridge.convert_qat_model
    if target != TARGETS[0]:
        convert = partial(convert, target=target)
    leaves: dict[str, dict[str, Any]] = {
        "amct_onnx": {"convert_qat_model": convert},
        "amct_onnx.convert_model": {"convert_qat_model": convert},
    }
    for package in _TORCH_PACKAGES:
        for module, layer in _QUANTIZATION.items():
            name = f"{package}.nn.module.quantization.{module}"
            leaves[name] = {layer.__name__: layer}
    parents: dict[str, dict[str, Any]] = {}
    for name in leaves:
        parts = name.split(".")
        parents.update({".".join(parts[:i]): {} for i in range(1, len(parts))})
    return parents | leaves


def _is_installed(root: str) -> bool:
    """Whether a package is installed; a folder of that name without __init__.py is not one."""
    if root in sys.modules:
        return True
    spec = importlib.util.find_spec(root)
    return spec is not None and spec.origin is not None


def _take_modules() -> dict[str, ModuleType]:
    """Remove the modules below ROOTS from sys.modules and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in ROOTS]
    return {name: sys.modules.pop(name) for name in names}


_finder = _AliasFinder()
