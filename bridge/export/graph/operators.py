"""ONNX operators: their domain, optional inputs and integer attributes."""

import onnx_ir as ir

STANDARD_DOMAINS = ("", "ai.onnx")
"""The two names of the default domain."""

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")

_ZERO_POINT = 2
"""Input of QuantizeLinear and DequantizeLinear, after the tensor and the scale."""


def is_standard(node: ir.Node) -> bool:
    """Whether an operator is of ONNX's default domain.

    Args:
        node: any node.
    """
    return node.domain in STANDARD_DOMAINS


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input that a node may leave out.

    Args:
        node: any node.
        index: of the input.
    Returns:
        the value; None if the node has fewer inputs, or an empty name there.
    """
    return node.inputs[index] if index < len(node.inputs) else None


def zero_point_input(node: ir.Node) -> ir.Value | None:
    """Return the optional zero point of a QuantizeLinear or DequantizeLinear.

    Args:
        node: the QuantizeLinear or DequantizeLinear.
    Returns:
        the value, None without one.
    """
    return optional_input(node, _ZERO_POINT)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of a node.

    Args:
        node: any node.
        name: of the attribute.
        default: the operator's default.
    Returns:
        its value.
    """
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
