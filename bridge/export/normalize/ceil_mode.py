"""Replaces ceil_mode of pools by padding where shape inference disagrees with the kernels.

    x -> MaxPool <ceil_mode = 1, pads = [b, e]> -> y
      =>
    x -> MaxPool <ceil_mode = 0, pads = [b, e']> -> y

Reason: torch and ONNX Runtime's kernels leave out a last window that would start in the padding
after the input; shape inference, onnx's and ONNX Runtime's, counts it. ONNX Runtime then folds the
Shape of y to a wrong constant (from optimization level basic on), and a Reshape by it fails. With
ceil_mode = 0 and the end padding e' both agree on the windows that are computed.
"""

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.geometry.windows import pool_axes

_POOLS = ("MaxPool", "AveragePool", "LpPool")


def without_ceil_mode(model: ir.Model) -> ir.Model:
    """Replace ceil_mode by padding in pools that shape inference gets wrong.

    Args:
        model: any; it is not changed.
    Returns:
        an equivalent model, the model itself if there is no such pool.
    """
    while any(node.attributes.get("ceil_mode") for node in _nodes(model)):
        inferred = model.clone()
        passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(inferred)
        index = next(
            (i for i, node in enumerate(_nodes(inferred)) if _replace_ceil_mode(node)), None
        )
        if index is None:
            break
        model = model.clone()
        for name, attribute in list(_nodes(inferred))[index].attributes.items():
            list(_nodes(model))[index].attributes[name] = attribute
    return model


def _nodes(model: ir.Model) -> ir.traversal.RecursiveGraphIterator:
    return ir.traversal.RecursiveGraphIterator(model.graph)


def _replace_ceil_mode(node: ir.Node) -> bool:
    """Replace a pool's ceil_mode by padding if inference counts more windows; return whether."""
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
