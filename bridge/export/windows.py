"""Windows of a MaxPool that lie wholly in padding.

What a pool makes of such a window is no value of its input but the lowest number of its type: 0 of
uint8 codes, -3.4e38 of floats in ONNX Runtime. So a limit commutes with a pool only where no window
is one; a quantizer does, as it saturates.
"""

import numpy as np
import onnx_ir as ir

LOWEST = float(np.finfo(np.float32).min)
"""What ONNX Runtime's MaxPool of floats makes of a window without values."""


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


def is_known_to_reach(node: ir.Node) -> bool:
    """Whether every window of a MaxPool with `ceil_mode` is known to hold a value of its input.

    Args:
        node: a MaxPool.
    Returns:
        False too where the sizes of its input are not known, with dilation, and with padding that
        depends on these sizes.
    """
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    kernel = given.get("kernel_shape", ())
    dilated = any(step > 1 for step in given.get("dilations", ()))
    if shape is None or dilated or given.get("auto_pad", "NOTSET") != "NOTSET":
        return False
    sizes = [size for size in shape[2:] if isinstance(size, int)]
    pads = given.get("pads") or [0, 0] * len(kernel)
    strides = given.get("strides") or [1] * len(kernel)
    if not len(sizes) == len(kernel) == len(strides) == len(pads) / 2 or min(strides) < 1:
        return False
    for axis, (size, taps, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        before, after = pads[axis], pads[axis + len(kernel)]
        last = -(-(size + before + after - taps) // stride) * stride - before
        if size < 1 or last >= size or before >= taps:
            return False
    return True
