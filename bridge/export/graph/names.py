"""Module paths of layers, recovered from the metadata and names that exporters write."""

import re
from collections.abc import Iterable

import onnx_ir as ir

from bridge.export.graph.constants import data_source

LAYER_KEY = "qatfunc.layer"
"""Metadata key of every node that a conversion writes: the name of its layer."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def layer_name(node: ir.Node, weight: ir.Value | None, bias: ir.Value | None) -> str:
    """Return the module path of a layer, or the nearest name in the file.

    The sources, in order of preference: the node's metadata (the layer name of a conversion, or
    the module scopes of the default exporter); the names of weight and bias; the scopes in node
    names of the TorchScript exporter; the node's own name.

    Args:
        node: the layer's operator.
        weight: the value that its weight is quantized from.
        bias: the bias, None without one.
    Returns:
        such as "layer1.0.conv1".
    """
    scopes = node.metadata_props.get(LAYER_KEY) or module_path(node)
    if scopes:
        return scopes
    path = _owner(weight, ".weight") or _owner(bias, ".bias")
    scope = scope_of_name(node.name or "")
    return path or scope or node.name or node.outputs[0].name or node.op_type


def tied_name(node: ir.Node, bias: ir.Value | None, name: str) -> str:
    """Return the module path of a layer that may share its weight with another layer.

    The TorchScript exporter names a tied weight after the first module that owns it. The layer's
    own bias, or the scope in its node's name, identifies the module.

    Args:
        node: the layer's operator.
        bias: the bias, None without one.
        name: from layer_name, the path of the first owner.
    Returns:
        the module path, or the part of it that the scope contains; name if it is a second call of
        the same module, or the file does not identify the module.
    """
    if node.metadata_props.get(LAYER_KEY) or module_path(node):
        return name
    path, scope = _owner(bias, ".bias"), scope_of_name(node.name or "")
    if path and path != name:
        return path
    return name if not scope or _may_be_in(scope, name) else scope


def embedded_names(graph: ir.Graph) -> set[str]:
    """Return the module paths of embeddings, by the names of their weights.

    Args:
        graph: the main graph.
    Returns:
        the paths; a layer whose weight has such a name may be another module with a tied weight.
    """
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return {_owner(node.inputs[0], ".weight") for node in nodes if node.op_type == "Gather"}


def first_call(scope: str) -> str:
    """Return the scope of a module's first call for that of any call.

    Args:
        scope: such as "fc" or, of the second call, "fc_1".
    Returns:
        the scope without the number of the call.
    """
    return re.sub(r"_\d+$", "", scope)


def _may_be_in(scope: str, path: str) -> bool:
    """Whether a module path may have a scope: scopes leave out containers, which paths include."""
    parts = iter(path.split("."))
    names = ((part, first_call(part)) for part in scope.split("."))
    return all(any(part in name for part in parts) for name in names)


def _owner(value: ir.Value | None, ending: str) -> str:
    """Return a value's name without an ending, "" if it has another ending."""
    # The value's own name first: where exporters merge equal initializers, an Identity has it.
    for name in () if value is None else (value.name, data_source(value).name):
        if name and name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return ""


def module_path(node: ir.Node) -> str:
    """Return the path of the module that a node was traced in.

    Args:
        node: any node.
    Returns:
        the innermost module scope that the default exporter wrote, "" if there is none.
    """
    scopes = _strings(node.metadata_props.get(_SCOPES, ""))
    # The last entry is the operator itself, the one before it the innermost module.
    return scopes[-2] if len(scopes) >= 2 else ""


_STRING = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*([,\]])""")
"""One string of a printed list, with the comma or bracket after it."""

_LONGEST = 20_000
"""Most characters of a list of scopes; modules are not nested deeper."""

_ESCAPED = re.compile(r"\\(.)")


def _strings(printed: str) -> list[str]:
    """Parse a printed list of strings in linear time; [] if it is not one."""
    if len(printed) > _LONGEST:
        return []
    found, position, end = [], 1, ""
    while printed.startswith("[") and end != "]":
        match = _STRING.match(printed, position)
        if match is None:
            return []
        quoted, end = match.groups()
        found.append(_ESCAPED.sub(r"\1", quoted[1:-1]))
        position = match.end()
    return found if position == len(printed) else []


def scope_of_name(name: str) -> str:
    """Convert a node name of the TorchScript exporter to a module path.

    Args:
        name: such as "/layer1/layer1.0/conv1/Conv".
    Returns:
        such as "layer1.0.conv1", "" for other names.
    """
    if not name.startswith("/"):
        return ""
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


class UniqueNames:
    """Makes names unique: the second use of a name becomes NAME#2.

    Args:
        taken: names that must not be given.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._given = set(taken)
        self._uses: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a name is taken."""
        return name in self._given

    def give(self, name: str) -> str:
        """Return a name, or the next NAME#n that is free.

        Args:
            name: the preferred name.
        Returns:
            a name that was not given before.
        """
        unique = name
        while unique in self._given:  # a node of the file may have the name NAME#2
            self._uses[name] = self._uses.get(name, 1) + 1
            unique = f"{name}#{self._uses[name]}"
        self._given.add(unique)
        return unique
