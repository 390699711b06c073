"""Recovering a layer's module path from what the exporters leave in a file."""

import ast

import onnx_ir as ir

from bridge.export.constants import root

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
    for value, ending in ((weight, ".weight"), (bias, ".bias")):
        # Its own name first: exporters that merge equal initializers keep the name in an Identity.
        for name in () if value is None else (value.name, root(value).name):
            if name and name.endswith(ending) and len(name) > len(ending):
                return name.removesuffix(ending)
    return scope_of_name(node.name or "") or node.name or node.outputs[0].name or node.op_type


def module_path(node: ir.Node) -> str:
    """Return the path of the module a node was traced in, "" if the file does not say.

    Args:
        node: any node.
    Returns:
        the innermost module scope of the default exporter.
    """
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    # The last entry is the operator itself, the one before it the innermost module.
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) >= 2 else ""


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
