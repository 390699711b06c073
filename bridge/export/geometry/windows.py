"""Windows of a MaxPool that lie wholly in padding.

What a pool makes of such a window is no value of its input but the lowest number of its type: 0 of
uint8 codes, -3.4e38 of floats in ONNX Runtime. So a limit commutes with a pool only where no window
is one; a quantizer does, as it saturates.
"""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

LOWEST = float(np.finfo(np.float32).min)
"""What ONNX Runtime's MaxPool of floats makes of a window without values."""


class PoolAxis(NamedTuple):
    """One spatial axis of a pool."""

    size: int
    taps: int
    dilation: int
    stride: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Positions from the first to the last tap of a window."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def inferred(self) -> int:
        """Windows that shape inference finds with `ceil_mode`."""
        span = self.size + self.before + self.after - self.reach
        return -(-span // self.stride) + 1

    @property
    def computed(self) -> int:
        """Windows that a runtime computes: none that starts in the padding after the input."""
        start = (self.inferred - 1) * self.stride
        return self.inferred - (start >= self.size + self.before)

    @property
    def needed(self) -> int:
        """Padding after the input that gives as many windows without rounding up."""
        end = (self.computed - 1) * self.stride + self.reach
        return max(end - self.size - self.before, 0)

    @property
    def reaches(self) -> bool:
        """Whether every window that inference finds holds a value of the input."""
        within = self.dilation == 1 and self.size >= 1 and self.before < self.taps
        return within and self.inferred == self.computed


def may_see_only_padding(node: ir.Node) -> bool:
    """Whether a window of a node may hold no value of its input, whatever its sizes are.

    Without dilation a window is one run of positions, and ONNX Runtime takes less padding than the
    kernel is long, so a run that starts before the input reaches into it. Only `ceil_mode` can
    start one after its end.

    Args:
        node: any node.
    Returns:
        False for all but MaxPool nodes.
    """
    if node.op_type != "MaxPool":
        return False
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    return bool(given.get("ceil_mode")) or any(step > 1 for step in given.get("dilations", ()))


def every_window_has_values(node: ir.Node) -> bool:
    """Whether every window of a MaxPool with `ceil_mode` is known to hold a value of its input.

    Args:
        node: a MaxPool.
    Returns:
        False too where the sizes of its input are not known, with dilation, and with padding that
        depends on these sizes.
    """
    axes = pool_axes(node)
    return bool(axes) and all(axis.reaches for axis in axes)


def pool_axes(node: ir.Node) -> list[PoolAxis]:
    """Read the spatial axes of a pool.

    Args:
        node: a pool.
    Returns:
        one entry an axis; [] where sizes are not known, padding depends on them, or attributes do
        not fit, at which onnx.checker does not look.
    """
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    kernel = given.get("kernel_shape") or []
    n = len(kernel)
    pads = given.get("pads") or [0] * 2 * n
    dilations, strides = (given.get(name) or [1] * n for name in ("dilations", "strides"))
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    sizes = [] if shape is None else [size for size in shape[2:] if isinstance(size, int)]
    if given.get("auto_pad", "NOTSET") != "NOTSET" or n == 0:
        return []
    if not len(sizes) == len(strides) == len(dilations) == len(pads) / 2 == n or min(strides) < 1:
        return []
    return [
        PoolAxis(sizes[i], kernel[i], dilations[i], strides[i], pads[i], pads[n + i])
        for i in range(n)
    ]
