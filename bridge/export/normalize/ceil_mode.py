"""Pools whose sizes shape inference rounds up to a window that no runtime computes.

    MaxPool(ceil_mode=1, pads=(b, e)) -> MaxPool(ceil_mode=0, pads=(b, e'))

With ceil_mode, a last window that would start in the padding after the input is left out by ONNX
Runtime's kernels and by torch, but not by shape inference, onnx's and the runtime's own. From level
basic on the runtime folds the Shape of such a value, and what is reshaped by it fails. So the pool
states the windows that are computed by its padding.
"""

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.geometry.windows import pool_axes

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def without_ceil_mode(model: ir.Model) -> ir.Model:
    """Return a model whose pools have the windows that inference finds.

    Args:
        model: any; it is left as it is.
    Returns:
        a model that computes the same; the model itself where no pool is to be restated.
    """
    while any(node.attributes.get("ceil_mode") for node in _nodes(model)):
        inferred = model.clone()
        passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(inferred)
        index = next((i for i, node in enumerate(_nodes(inferred)) if _restate(node)), None)
        if index is None:
            break
        model = model.clone()
        for name, attribute in list(_nodes(inferred))[index].attributes.items():
            list(_nodes(model))[index].attributes[name] = attribute
    return model


def _nodes(model: ir.Model) -> ir.traversal.RecursiveGraphIterator:
    return ir.traversal.RecursiveGraphIterator(model.graph)


def _restate(node: ir.Node) -> bool:
    """Let a pool's padding state its windows, if inference rounds up to another count."""
    if node.op_type not in _POOLS or not node.attributes.get("ceil_mode"):
        return False
    axes = pool_axes(node)
    if not node.attributes["ceil_mode"].value or all(
        axis.inferred == axis.computed for axis in axes
    ):
        return False
    counts_padding = node.op_type != "MaxPool" and "count_include_pad" in node.attributes
    for axis in axes:
        if axis.needed >= axis.extent or (counts_padding and axis.needed > axis.after):
            return False
    pads = [axis.before for axis in axes] + [axis.needed for axis in axes]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    return True
