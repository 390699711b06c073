"""Limits of Relu and Clip, which clamp a float value and, quantized, its codes alike.

y = min(max(x, low), high)
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import constant, describe
from bridge.export.graph.operators import is_standard


class BadLimitsError(Exception):
    """Control flow between the readers: the limits of a Clip are unknown; carries the reason."""


def clamp_limits(node: ir.Node) -> tuple[float, float] | None:
    """Return the limits of an operator that clamps.

    Args:
        node: any node.
    Returns:
        (low, high), infinite where there is no limit; None if CLAMPS does not list the operator.
    Raises:
        BadLimitsError: a limit is not a constant float32 number, or low > high.
    """
    read = CLAMPS.get(node.op_type)
    return None if read is None or not is_standard(node) else read(node)


def _relu(_: ir.Node) -> tuple[float, float]:
    return 0.0, np.inf


def _clip(node: ir.Node) -> tuple[float, float]:
    ends = [-np.inf, np.inf]
    for i, value in enumerate(node.inputs[1:3]):
        if value is not None:
            end = constant(value)
            if end is None or end.dtype != np.float32 or np.isnan(end).any():
                raise BadLimitsError(
                    f"a limit of {describe(node)} is not a constant float32 number"
                )
            ends[i] = float(end.reshape(()))
    if ends[0] > ends[1]:
        raise BadLimitsError(f"the minimum of {describe(node)} is above its maximum")
    return ends[0], ends[1]


CLAMPS: dict[str, Callable[[ir.Node], tuple[float, float]]] = {"Relu": _relu, "Clip": _clip}
"""Operators that clamp, with the functions that read their limits."""


def after_clamps(value: ir.Value) -> tuple[ir.Value, float, float]:
    """Follow a value through a chain of Relu and Clip nodes, each the only consumer of its input.

    Args:
        value: any value.
    Returns:
        the output of the last of them, the value itself without any; and the limits of all
        together, (low, high).
    """
    low, high = -np.inf, np.inf
    while not value.is_graph_output():
        users = [use.node for use in value.uses()]
        if len(users) != 1 or users[0].inputs[0] is not value or users[0].graph is not value.graph:
            break
        try:
            ends = clamp_limits(users[0])
        except BadLimitsError:
            break
        if ends is None:
            break
        low, high = (min(max(end, ends[0]), ends[1]) for end in (low, high))
        value = users[0].outputs[0]
    return value, low, high
