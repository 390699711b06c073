"""Finds the quantized layers of a QDQ graph and reads each into a QuantizedLayer.

    x -> QuantizeLinear -> DequantizeLinear ----------+
    w -> (QuantizeLinear ->) DequantizeLinear -> ... -+-> Conv | ConvTranspose | Gemm | MatMul -> y
    bias, float or dequantized -----------------------+

The dots are shape operators with constant shapes. An Add of a constant after a MatMul is its bias.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array, constant, reshaper
from bridge.export.graph.names import UniqueNames, embedded_names, first_call, layer_name, tied_name
from bridge.export.graph.operators import QUANTIZERS, int_attribute, is_standard, optional_input
from bridge.export.read.accumulator import accumulator_limit
from bridge.export.read.batch_norm import read_batch_norm
from bridge.export.read.bias import integer_bias, read_bias
from bridge.export.read.channel_scales import input_scale_per_output
from bridge.export.read.layer import QuantizedLayer, output_rows
from bridge.export.read.qdq import NotQuantizedError, read_input, read_weight
from bridge.export.read.zero_points import check_zero_points

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class FloatOperator:
    """An operator that stays in float.

    Args:
        name: module path.
        op: operator type.
        reason: why it is not quantized.
    """

    name: str
    op: str
    reason: str


Refusal = Callable[[QuantizedLayer], str | None]
"""Returns the reason why a target cannot represent a layer, None if it can."""


def read_layers(
    graph: ir.Graph, *, fold_batch_norm: bool = False, refusal: Refusal = lambda _: None
) -> tuple[list[QuantizedLayer], list[FloatOperator]]:
    """Find the quantized layers of a graph.

    Args:
        graph: the main graph of a QDQ model; its subgraphs are read too.
        fold_batch_norm: fold a BatchNormalization after a layer into it.
        refusal: of the target; layers with a reason stay in float.
    Returns:
        the layers in topological order, and the operators of these types that stay in float.
    Raises:
        ConversionError: the data of a constant does not fit its shape or data type.
    """
    layers: list[QuantizedLayer] = []
    floats: list[FloatOperator] = []
    for name, node in named_operators(graph):
        try:
            layer = _read_layer(node, name, fold_batch_norm)
            refused = refusal(layer)
            if refused is not None:
                raise NotQuantizedError(refused)
            layers.append(layer)
        except NotQuantizedError as reason:
            floats.append(FloatOperator(name, node.op_type, str(reason)))
    return layers, floats


def named_operators(graph: ir.Graph) -> Iterator[tuple[str, ir.Node]]:
    """Iterate over the operators that may be quantized, with unique names, including subgraphs.

    Args:
        graph: the main graph.
    Returns:
        (name, node) in topological order; the second use of a name is NAME#2, unless the file
        identifies another module with a tied weight.
    """
    found = [
        (_name(node), node)
        for node in ir.traversal.RecursiveGraphIterator(graph)
        if node.op_type in OPERATORS and is_standard(node)
    ]
    named = {name for name, _ in found}
    given, embedded = UniqueNames(), embedded_names(graph)
    for name, node in found:
        may_be_tied = name in given or name in embedded
        tied = tied_name(node, _bias_of(node), name) if may_be_tied else name
        if tied != name and first_call(tied) in given:
            name = tied = first_call(tied)
        yield given.give(name if tied in named or tied in given else tied), node


def _name(node: ir.Node) -> str:
    weight = node.inputs[1]
    return layer_name(node, None if weight is None else _quantized_value(weight), _bias_of(node))


def _bias_of(node: ir.Node) -> ir.Value | None:
    return optional_input(node, 2)


def _quantized_value(value: ir.Value) -> ir.Value:
    """Follow a value back through its Q/DQ pair and the shape operators around it."""
    computed = False  # known not to be constant, as all values back to the next pair
    while True:
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return value
        if node.op_type == "Identity" and not computed:
            if constant(value) is not None:
                return value
            computed = True
        if node.op_type in QUANTIZERS:
            computed = False
        elif reshaper(node) is None:
            return value
        value = node.inputs[0]


def _read_layer(node: ir.Node, name: str, fold_batch_norm: bool) -> QuantizedLayer:
    scale_x, zero_point_x = read_input(node, 0)[1:]
    weight, scales = read_weight(node.inputs[1])
    if not weight.size:
        raise NotQuantizedError(f"its weight has no elements, its shape is {weight.shape}")
    op = "MatMul" if node.op_type == "Gemm" else node.op_type
    groups = int_attribute(node, "group", 1)
    if node.op_type == "Gemm":
        _check_gemm(node)
        if int_attribute(node, "transB", 0):
            weight, scales = weight.T, scales.T
    if op == "MatMul" and weight.ndim != 2:
        raise NotQuantizedError(f"its weight has rank {weight.ndim}, not 2")
    _check_groups(weight, op, groups)
    scale_x, zero_point_x, correction = input_scale_per_output(
        node, scale_x, zero_point_x, weight=weight, groups=groups
    )
    scale_w = _per_channel(scales, op, groups)
    check_product(scale_x, scale_w)
    check_zero_points(weight, op, groups)
    output, bias = read_bias(node, len(output_rows(weight, op, groups)))
    layer = QuantizedLayer(
        name=name,
        op=op,
        node=node,
        output=output,
        scale_x=scale_x,
        zero_point_x=zero_point_x,
        weight_source=_quantized_value(node.inputs[1]).name or "" if node.inputs[1] else "",
        weight=np.ascontiguousarray(weight),
        scale_w=scale_w,
        float_bias=bias,
        bias=integer_bias(bias, scale_x * scale_w, correction),
        correction=correction,
        norm=None,
        attributes={} if op == "MatMul" else {k: a.value for k, a in node.attributes.items()},
        groups=groups,
    )
    last = node.op_type == "MatMul"
    found = read_batch_norm(output, channels_last=last) if fold_batch_norm else None
    if found is not None:
        layer = replace(layer, norm=found[0], output=found[1])
    return _checked(layer)


def read_input_again(layer: QuantizedLayer) -> QuantizedLayer:
    """Update a layer after a pass has changed the Q/DQ pair on its input.

    Args:
        layer: as it was read before the pass.
    Returns:
        the layer with the new scale and zero point of its input, and with the bias rounded anew.
    Raises:
        NotQuantizedError: with these the operator cannot be a quantized layer.
    """
    scale_x, zero_point_x, correction = input_scale_per_output(
        layer.node, *read_input(layer.node, 0)[1:], weight=layer.weight, groups=layer.groups
    )
    check_product(scale_x, layer.scale_w)
    changed = replace(
        layer,
        scale_x=scale_x,
        zero_point_x=zero_point_x,
        correction=correction,
        bias=integer_bias(layer.float_bias, scale_x * layer.scale_w, correction),
    )
    return _checked(changed)


def _checked(layer: QuantizedLayer) -> QuantizedLayer:
    """Leave a BatchNormalization in float whose factor overflows; check the accumulator bound."""
    with np.errstate(over="ignore"):
        layer = layer if np.isfinite(layer.rescale).all() else layer.unfolded
    limit = accumulator_limit(wide=layer.wide)
    if layer.accumulator_bound > limit:
        raise NotQuantizedError(
            f"its sums can reach {layer.accumulator_bound}, beyond the accumulator's {limit}; use "
            "smaller clips, fewer input channels or a smaller bias"
        )
    return layer


def _check_groups(weight: Array, op: str, groups: int) -> None:
    """Raise unless the rank and the channels of a convolution's weight fit its groups."""
    if op == "MatMul":
        return
    if weight.ndim < 3 or groups < 1 or weight.shape[0] % groups:
        raise NotQuantizedError(
            f"a weight of shape {weight.shape} does not fit {op} with group = {groups}"
        )


def check_product(scale_x: Array | np.float32, scale_w: Array) -> None:
    """Raise unless the accumulator's scale, scale_x * scale_w, is a positive float32.

    Args:
        scale_x: float32, of the input.
        scale_w: float32, of the weight or the other input; broadcasts to scale_x.
    Raises:
        NotQuantizedError: a product is 0 or infinite in float32.
    """
    with np.errstate(over="ignore", under="ignore"):
        product = scale_x * scale_w
    bad = ~(np.isfinite(product) & (product > 0))
    if bad.any():
        x, w = (np.broadcast_to(scale, product.shape)[bad][0] for scale in (scale_x, scale_w))
        raise NotQuantizedError(
            f"scale_x * scale_w must be positive and finite in float32, got {x:.4g} * {w:.4g}"
        )


def _per_channel(scales: Array, op: str, groups: int) -> Array:
    rows = output_rows(scales, op, groups)
    if (rows != rows[:, :1]).any():
        raise NotQuantizedError("its weight scale varies within an output channel")
    per_channel = np.ascontiguousarray(rows[:, 0])
    return per_channel[:1] if (per_channel == per_channel[0]).all() else per_channel


def _check_gemm(node: ir.Node) -> None:
    for name in ("alpha", "beta"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.as_float() != 1.0:
            raise NotQuantizedError(f"its {name} is {attribute.as_float()}, not 1")
    if int_attribute(node, "transA", 0):
        raise NotQuantizedError("its input is transposed (transA)")
