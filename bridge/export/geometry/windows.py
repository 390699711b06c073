"""Windows of a MaxPool that contain only padding.

The output for such a window is the lowest number of the data type: 0 for uint8, -3.4e38 for floats
in ONNX Runtime. So a Clip commutes with a MaxPool only if there is no such window; a QuantizeLinear
always does, as it saturates.
"""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

LOWEST = float(np.finfo(np.float32).min)
"""Output of ONNX Runtime's float MaxPool for a window that contains only padding."""


class PoolAxis(NamedTuple):
    """One spatial axis of a pool.

    Args:
        size: of the input.
        taps: of the kernel.
        dilation: of the kernel.
        stride: of the windows.
        before: padding before the input.
        after: padding after it.
    """

    size: int
    taps: int
    dilation: int
    stride: int
    before: int
    after: int

    @property
    def extent(self) -> int:
        """Length of a window, from its first to its last tap."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def inferred(self) -> int:
        """Number of windows by shape inference with ceil_mode."""
        span = self.size + self.before + self.after - self.extent
        return -(-span // self.stride) + 1

    @property
    def computed(self) -> int:
        """Number of windows that runtimes compute: without one that starts after the input."""
        start = (self.inferred - 1) * self.stride
        return self.inferred - (start >= self.size + self.before)

    @property
    def needed(self) -> int:
        """Padding after the input with which floor mode has the computed number of windows."""
        end = (self.computed - 1) * self.stride + self.extent
        return max(end - self.size - self.before, 0)

    @property
    def has_values(self) -> bool:
        """Whether every window contains a value of the input."""
        within = self.dilation == 1 and self.size >= 1 and self.before < self.taps
        return within and self.inferred == self.computed


def may_see_only_padding(node: ir.Node) -> bool:
    """Whether a MaxPool can have a window that contains only padding, for some input size.

    Without dilation a window is contiguous, and ONNX Runtime requires the padding to be less than
    the kernel size, so a window that starts before the input overlaps it. Only ceil_mode allows
    windows that start after the input.

    Args:
        node: any node.
    Returns:
        False for other operators.
    """
    if node.op_type != "MaxPool":
        return False
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    return bool(given.get("ceil_mode")) or any(step > 1 for step in given.get("dilations", ()))


def every_window_has_values(node: ir.Node) -> bool:
    """Whether every window of a MaxPool with ceil_mode contains a value of its input.

    Args:
        node: a MaxPool.
    Returns:
        False also if the size of its input is not known, with dilation, and with auto_pad.
    """
    axes = pool_axes(node)
    return bool(axes) and all(axis.has_values for axis in axes)


def pool_axes(node: ir.Node) -> list[PoolAxis]:
    """Read the spatial axes of a pool.

    Args:
        node: a pool.
    Returns:
        one entry per axis; [] if the input's size is not known, with auto_pad, and for invalid
        attributes, which onnx.checker does not check.
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
