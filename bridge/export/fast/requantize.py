"""Mode "fast": tensors that integer operators read are quantized once, where they are computed.

    layer or Add -> (Relu | Clip)* -> (MaxPool | reshape | Concat)* -> QuantizeLinear of each reader
        becomes
    layer or Add -> (Relu | Clip)* -> QuantizeLinear -> (MaxPool | reshape | Concat)* -> all readers

The quantizers that read a group (fast.groups) are replaced by one for the group. Its range is the
union of theirs. Without any it is the range on data; if an Add, LeakyRelu or average pool reads the
group too, the range on data is included, so that nothing is clamped for these. Float operators read
the same float tensors as before.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.fast.groups import Group, find_groups, is_plain_quantizer, rounded_value
from bridge.export.fast.nan_check import quantized_inputs
from bridge.export.fast.observe import observe
from bridge.export.graph.builder import Lowerable, add_initializer
from bridge.export.read.qdq import find_uint8_qparams
from bridge.export.read.zero_points import UINT8_SHIFT
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import ulq_qparams

_STEPS = 255
_CODES = "/codes"
"""Suffix of the names of codes that mode "fast" adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """The quantization of a tensor in both models of mode "fast".

    Args:
        scale: of its codes.
        zero_point: of its codes as int8.
        quantizers: number of different scales and zero points of the quantizers that read it. With
            0 the range is that on data, with 1 that of mode "exact", with more their union.
        widened: whether the range on data widens it, for an Add, LeakyRelu or average pool.
    """

    scale: float
    zero_point: int
    quantizers: int
    widened: bool = False


def requantize(
    model: ir.Model, layers: Iterable[Lowerable], data: Iterable[Any]
) -> dict[ir.Value, Rounding]:
    """Quantize every tensor that integer operators read, where it is computed.

    Args:
        model: with uint8 activations (bridge.export.passes.uint8_codes); changed in place.
        layers: its quantized layers and products.
        data: batches, as observe takes them.
    Returns:
        the quantized values, each after the Relu or Clip of its layer or Add, with what they are
        rounded to.
    Raises:
        ValueError: there is no data, it does not fit the model, or a layer's input has NaN.
    """
    layers = list(layers)
    groups = find_groups(model.graph, {layer.output for layer in layers})
    qparams = [{find_uint8_qparams(q): None for q in group.quantizers} for group in groups]
    seen = [group for group in groups if group.operators]
    clips = observe(
        model,
        [_names(group.sources) for group in seen],
        data,
        quantized=quantized_inputs((layer.name, layer.node) for layer in layers),
        titles=_titles(layers),
    )
    ranges = {id(group): _of_clip(clip) for group, clip in zip(seen, clips, strict=True)}
    rounded = {}
    for group, found in zip(groups, qparams, strict=True):
        known = [pair for pair in found if pair is not None]
        read = [ranges[id(group)]] if group.operators else []
        scale, zero = _join([*known, *read])
        widened = bool(known) and (scale, zero) != _join(known)
        _write(model.graph, group, scale, zero)
        rounding = Rounding(
            scale=float(scale),
            zero_point=zero - UINT8_SHIFT,
            quantizers=len(known),
            widened=widened,
        )
        rounded.update(dict.fromkeys(group.sources, rounding))
    passes.RemoveUnusedNodesPass()(model)
    return rounded


def holds_fast_codes(value: ir.Value) -> bool:
    """Whether a value of a fake-quant or deploy model holds codes that mode "fast" added.

    Args:
        value: any value.
    Returns:
        True if its name ends as mode "fast" names codes.
    """
    return (value.name or "").endswith(_CODES)


def _titles(layers: Iterable[Lowerable]) -> dict[str, str]:
    """Describe the values that layers compute, by name, for messages."""
    values = {layer.name: rounded_value(layer.output, past_pools=True) for layer in layers}
    return {value.name or "": f"the output of layer {name!r}" for name, value in values.items()}


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _join(qparams: Sequence[tuple[np.float32, int]]) -> tuple[np.float32, int]:
    """Return the scale and zero point of the union of ranges, kept as they are if one holds all."""
    low = min(-zero * float(scale) for scale, zero in qparams)
    high = max((_STEPS - zero) * float(scale) for scale, zero in qparams)
    for scale, zero in qparams:
        if -zero * float(scale) == low and (_STEPS - zero) * float(scale) == high:
            return scale, zero
    scale = np.float32((high - low) / _STEPS)
    return scale, round(-low / float(scale))


def _of_clip(clip: Clip) -> tuple[np.float32, int]:
    scale, zero = ulq_qparams(clip, ActivationSpec())
    return np.float32(scale.item()), int(zero.item()) + UINT8_SHIFT


def _write(graph: ir.Graph, group: Group, scale: np.float32, zero: int) -> None:
    """Quantize a group, and let its readers outside read codes or their dequantized values."""
    name = group.sources[0].name
    qparams = (
        add_initializer(graph, f"{name}/scale", scale),
        add_initializer(graph, f"{name}/zero_point", np.uint8(zero)),
    )
    inside = set(group.passthrough)
    codes: dict[ir.Value | None, ir.Value] = {}
    for source in group.sources:
        node = ir.node("QuantizeLinear", [source, *qparams], name=f"{source.name}/quantize")
        _insert_after(source, node)
        inside.add(node)
        codes[source] = node.outputs[0]
    for old in group.passthrough:
        attributes = {name: attribute.value for name, attribute in old.attributes.items()}
        inputs = [codes.get(value, value) for value in old.inputs]
        node = ir.node(old.op_type, inputs, attributes, name=f"{old.name}{_CODES}")
        graph.insert_before(old, node)
        codes[old.outputs[0]] = node.outputs[0]
    for value in group.values:
        _redirect(value, codes[value], qparams, inside=inside, operators=group.operators)


def _redirect(
    value: ir.Value,
    codes: ir.Value,
    qparams: Sequence[ir.Value],
    *,
    inside: Collection[ir.Node],
    operators: Collection[ir.Node],
) -> None:
    """Let the operators on codes, and quantizers outside the group, read a value's codes."""
    codes.name, codes.shape = f"{value.name}{_CODES}", value.shape
    codes.type = ir.TensorType(ir.DataType.UINT8)
    pair = ir.node("DequantizeLinear", [codes, *qparams], name=f"{value.name}/dequantize")
    _insert_after(codes, pair)
    rounded = pair.outputs[0]
    rounded.name, rounded.shape, rounded.type = f"{value.name}/rounded", value.shape, value.type
    for use in [use for use in value.uses() if use.node not in inside]:
        if is_plain_quantizer(use.node):
            _replace_codes(use.node, codes, pair)
        elif use.node in operators:
            use.node.replace_input_with(use.idx, rounded)


def _replace_codes(quantizer: ir.Node, codes: ir.Value, pair: ir.Node) -> None:
    """Replace a quantizer's codes; the new ones take its name if scale and zero point are equal."""
    old = quantizer.outputs[0]
    if find_uint8_qparams(quantizer) == find_uint8_qparams(pair):
        codes.name, old.name = old.name, f"{old.name}/replaced"
    for use in list(old.uses()):
        for i, operand in enumerate((codes, *pair.inputs[1:])):
            use.node.replace_input_with(i, operand)


def _insert_after(value: ir.Value, node: ir.Node) -> None:
    producer = value.producer()
    if producer is None or producer.graph is None:
        raise ValueError(f"value {value.name!r} is not the output of a node")
    producer.graph.insert_after(producer, node)
