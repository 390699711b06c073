"""Recovering a layer's module path from what the exporters leave in a file."""

import re
from collections.abc import Iterable

import onnx_ir as ir

from bridge.export.graph.constants import data_source

LAYER_KEY = "qatfunc.layer"
"""Metadata of every node a conversion writes: the layer it belongs to."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def layer_name(node: ir.Node, weight: ir.Value | None, bias: ir.Value | None) -> str:
    """Return the module path of a layer, or the closest to it that the file holds.

    In this order: what a conversion or the default exporter writes beside each node, the name or
    the module scopes; the path in the weight's and bias's names; the scopes in a node name of the
    TorchScript exporter; the node's own name.

    Args:
        node: the layer's operator.
        weight: the value its weight comes from.
        bias: the value its bias comes from, if it has one.
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
    """Return the module path of a layer whose weight has the name of another layer's.

    The TorchScript exporter names a tied weight after its first owner alone. The bias of another
    layer, or the node's scope, says which layer this is.

    Args:
        node: the layer's operator.
        bias: the value its bias comes from, if it has one.
        name: what layer_name says, the other layer's path.
    Returns:
        the path, or the part of it that the scope holds; name where it is the same layer, called
        again, or the file does not say.
    """
    if node.metadata_props.get(LAYER_KEY) or module_path(node):
        return name
    path, scope = _owner(bias, ".bias"), scope_of_name(node.name or "")
    if path and path != name:
        return path
    return name if not scope or _may_be_in(scope, name) else scope


def embedded_names(graph: ir.Graph) -> set[str]:
    """Return the module paths in the names of weights that embeddings read.

    Args:
        graph: the main graph.
    Returns:
        paths; a layer with such a weight may be another module, which has the same weight.
    """
    nodes = ir.traversal.RecursiveGraphIterator(graph)
    return {_owner(node.inputs[0], ".weight") for node in nodes if node.op_type == "Gather"}


def first_call(scope: str) -> str:
    """Return the scope of a module's first call, where one has that of a later call, LAYER_1.

    Args:
        scope: any name.
    Returns:
        the name without such a number.
    """
    return re.sub(r"_\d+$", "", scope)


def _may_be_in(scope: str, path: str) -> bool:
    """Whether a scope may be a module's: containers are in its path, but not in the scope."""
    parts = iter(path.split("."))
    names = ((part, first_call(part)) for part in scope.split("."))
    return all(any(part in name for part in parts) for name in names)


def _owner(value: ir.Value | None, ending: str) -> str:
    """Return the path before an ending of a value's name, "" if it has none."""
    # Its own name first: exporters that merge equal initializers keep the name in an Identity.
    for name in () if value is None else (value.name, data_source(value).name):
        if name and name.endswith(ending) and len(name) > len(ending):
            return name.removesuffix(ending)
    return ""


def module_path(node: ir.Node) -> str:
    """Return the path of the module a node was traced in, "" if the file does not say.

    Args:
        node: any node.
    Returns:
        the innermost module scope of the default exporter.
    """
    scopes = _strings(node.metadata_props.get(_SCOPES, ""))
    # The last entry is the operator itself, the one before it the innermost module.
    return scopes[-2] if len(scopes) >= 2 else ""


_STRING = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*([,\]])""")
"""One string of a printed list, and what comes after it."""

_LONGEST = 20_000
"""Longer lists are no scopes: modules are not nested so deep."""

_ESCAPED = re.compile(r"\\(.)")


def _strings(printed: str) -> list[str]:
    """Read a printed list of strings, in time that grows with its length alone; [] for others."""
    if len(printed) > _LONGEST:
        return []
    found, place, end = [], 1, ""
    while printed.startswith("[") and end != "]":
        match = _STRING.match(printed, place)
        if match is None:
            return []
        quoted, end = match.groups()
        found.append(_ESCAPED.sub(r"\1", quoted[1:-1]))
        place = match.end()
    return found if place == len(printed) else []


def scope_of_name(name: str) -> str:
    """Turn "/layer1/layer1.0/conv1/Conv" into "layer1.0.conv1"."""
    if not name.startswith("/"):
        return ""
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


class UniqueNames:
    """Gives every name once: the second use of a name is NAME#2.

    Args:
        taken: names that are given already.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._given = set(taken)
        self._uses: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the name is given."""
        return name in self._given

    def give(self, name: str) -> str:
        """Return the name, or the next NAME#n that is free.

        Args:
            name: what to call something.
        Returns:
            a name that was not given before.
        """
        unique = name
        while unique in self._given:  # a node may be called NAME#2 in the file too
            self._uses[name] = self._uses.get(name, 1) + 1
            unique = f"{name}#{self._uses[name]}"
        self._given.add(unique)
        return unique
