"""Pools whose sizes shape inference rounds up to a window that no runtime computes.

    MaxPool(ceil_mode=1, pads=(b, e)) -> MaxPool(ceil_mode=0, pads=(b, e'))

With ceil_mode, a last window that would start in the padding after the input is left out by ONNX
Runtime's kernels and by torch, but not by shape inference, onnx's and the runtime's own. From level
basic on the runtime folds the Shape of such a value, and what is reshaped by it fails. So the pool
states the windows that are computed by its padding.
"""

import math
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common as passes

_POOLS = ("MaxPool", "AveragePool", "LpPool")


class _Axis(NamedTuple):
    """One spatial axis of a pool."""

    size: int
    reach: int
    """Positions from the first to the last tap of a window."""
    stride: int
    before: int
    after: int

    @property
    def inferred(self) -> int:
        span = self.size + self.before + self.after - self.reach
        return math.ceil(span / self.stride) + 1

    @property
    def computed(self) -> int:
        starts = (self.inferred - 1) * self.stride
        return self.inferred - (starts >= self.size + self.before)

    @property
    def needed(self) -> int:
        """Padding after the input that gives as many windows without rounding up."""
        end = (self.computed - 1) * self.stride + self.reach
        return max(end - self.size - self.before, 0)


def with_stated_windows(model: ir.Model) -> ir.Model:
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
    axes = _axes(node)
    if all(axis.inferred == axis.computed for axis in axes):
        return False
    counts_padding = node.op_type != "MaxPool" and "count_include_pad" in node.attributes
    for axis in axes:
        if axis.needed >= axis.reach or (counts_padding and axis.needed > axis.after):
            return False
    pads = [axis.before for axis in axes] + [axis.needed for axis in axes]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
    return True


def _axes(node: ir.Node) -> list[_Axis]:
    """Read the axes of a pool with ceil_mode and explicit padding, [] for every other node."""
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type not in _POOLS or not given.get("ceil_mode") or not node.inputs:
        return []
    if given.get("auto_pad", "NOTSET") != "NOTSET" or node.inputs[0] is None:
        return []
    kernel = given.get("kernel_shape", [])
    n = len(kernel)
    pads = given.get("pads") or [0] * 2 * n
    dilations, strides = (given.get(name) or [1] * n for name in ("dilations", "strides"))
    shape = node.inputs[0].shape
    sizes = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    # onnx.checker does not look at these; what does not fit fails in the runtime.
    if not len(sizes) == len(strides) == len(dilations) == len(pads) / 2 == n or min(strides) < 1:
        return []
    return [
        _Axis(sizes[i], dilations[i] * (kernel[i] - 1) + 1, strides[i], pads[i], pads[n + i])
        for i in range(n)
    ]
