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
