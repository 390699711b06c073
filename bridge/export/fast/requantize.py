"""Mode "fast": what integer operators read is rounded to 8 bits where it is computed, once.

    layer or sum -> QuantizeLinear -> codes -> (MaxPool | reshapes | Concat)* -> all its readers

A group's codes take the place of those of the quantizers that read it. Quantizers of different
ranges become one, of the range that holds all of theirs; a group that no quantizer reads gets the
range of data, and the range of one that sums or averages read too holds that as well, so that
nothing is clamped for them. What computes in float reads what was there before.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.fast.groups import Group, find_groups, is_plain_quantizer, rounding_place
from bridge.export.fast.not_a_number import quantized_inputs
from bridge.export.fast.observe import observe
from bridge.export.graph.builder import Lowerable, add_initializer
from bridge.export.read.qdq import find_uint8_qparams
from bridge.export.read.zero_points import UINT8_SHIFT
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec
from qatfunc.ulq import ulq_qparams

_STEPS = 255
_CODES = "/codes"
"""Ends the names of codes that the model did not have before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What a value is rounded to in both models of mode "fast".

    Args:
        scale: of its codes.
        zero_point: their zero point, signed.
        quantizers: how many different quantizers read it; with 0 the range is from data, with 1
            it is as in mode "exact", with more it holds all of their ranges.
        widened: whether the range holds that of data besides, which sums or averages read.
    """

    scale: float
    zero_point: int
    quantizers: int
    widened: bool = False


def requantize(
    model: ir.Model, layers: Iterable[Lowerable], data: Iterable[Any]
) -> dict[ir.Value, Rounding]:
    """Round every value that integer operators read, where it is computed.

    Args:
        model: with unsigned activations (bridge.export.passes.uint8_codes); it is changed.
        layers: its quantized layers and products.
        data: as observe's.
    Returns:
        what is rounded, behind its layer's or sum's Relu or Clip.
    Raises:
        ValueError: there is no data, it does not fit the model, or a layer met NaN.
    """
    layers = list(layers)
    groups = find_groups(model.graph, {layer.output for layer in layers})
    numbers = [{find_uint8_qparams(q): None for q in group.quantizers} for group in groups]
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
    for group, found in zip(groups, numbers, strict=True):
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


def is_codes(value: ir.Value) -> bool:
    """Whether a value of a fake-quant or deploy model holds codes that mode "fast" made.

    Args:
        value: any value.
    """
    return (value.name or "").endswith(_CODES)


def _titles(layers: Iterable[Lowerable]) -> dict[str, str]:
    """Say of the values that layers compute which layer it is."""
    places = {layer.name: rounding_place(layer.output, past_pools=True) for layer in layers}
    return {value.name or "": f"the output of layer {name!r}" for name, value in places.items()}


def _names(values: Iterable[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def _join(numbers: Sequence[tuple[np.float32, int]]) -> tuple[np.float32, int]:
    """Return one scale and zero point for all; that of the one that holds the others, if any."""
    low = min(-zero * float(scale) for scale, zero in numbers)
    high = max((_STEPS - zero) * float(scale) for scale, zero in numbers)
    for scale, zero in numbers:
        if -zero * float(scale) == low and (_STEPS - zero) * float(scale) == high:
            return scale, zero
    scale = np.float32((high - low) / _STEPS)
    return scale, round(-low / float(scale))


def _of_clip(clip: Clip) -> tuple[np.float32, int]:
    scale, zero = ulq_qparams(clip, ActivationSpec())
    return np.float32(scale.item()), int(zero.item()) + UINT8_SHIFT


def _write(graph: ir.Graph, group: Group, scale: np.float32, zero: int) -> None:
    """Let everything outside a group read codes, or what they stand for."""
    name = group.sources[0].name
    numbers = (
        add_initializer(graph, f"{name}/scale", scale),
        add_initializer(graph, f"{name}/zero_point", np.uint8(zero)),
    )
    inside = set(group.carriers)
    codes: dict[ir.Value | None, ir.Value] = {}
    for source in group.sources:
        node = ir.node("QuantizeLinear", [source, *numbers], name=f"{source.name}/quantize")
        _insert_behind(source, node)
        inside.add(node)
        codes[source] = node.outputs[0]
    for carrier in group.carriers:
        attributes = {name: attribute.value for name, attribute in carrier.attributes.items()}
        inputs = [codes.get(value, value) for value in carrier.inputs]
        node = ir.node(carrier.op_type, inputs, attributes, name=f"{carrier.name}{_CODES}")
        graph.insert_before(carrier, node)
        codes[carrier.outputs[0]] = node.outputs[0]
    for value in group.values:
        _redirect(value, codes[value], numbers, inside=inside, operators=group.operators)


def _redirect(
    value: ir.Value,
    codes: ir.Value,
    numbers: Sequence[ir.Value],
    *,
    inside: Collection[ir.Node],
    operators: Collection[ir.Node],
) -> None:
    """Let the quantizers of a value that are outside its group read codes, and the operators."""
    codes.name, codes.shape = f"{value.name}{_CODES}", value.shape
    codes.type = ir.TensorType(ir.DataType.UINT8)
    pair = ir.node("DequantizeLinear", [codes, *numbers], name=f"{value.name}/dequantize")
    _insert_behind(codes, pair)
    rounded = pair.outputs[0]
    rounded.name, rounded.shape, rounded.type = f"{value.name}/rounded", value.shape, value.type
    for use in [use for use in value.uses() if use.node not in inside]:
        if is_plain_quantizer(use.node):
            _replace_codes(use.node, codes, pair)
        elif use.node in operators:
            use.node.replace_input_with(use.idx, rounded)


def _replace_codes(quantizer: ir.Node, codes: ir.Value, pair: ir.Node) -> None:
    """Let the readers of a quantizer read codes, under its name if they are the same."""
    old = quantizer.outputs[0]
    if find_uint8_qparams(quantizer) == find_uint8_qparams(pair):
        codes.name, old.name = old.name, f"{old.name}/replaced"
    for use in list(old.uses()):
        for i, operand in enumerate((codes, *pair.inputs[1:])):
            use.node.replace_input_with(i, operand)


def _insert_behind(value: ir.Value, node: ir.Node) -> None:
    producer = value.producer()
    if producer is None or producer.graph is None:
        raise ValueError(f"value {value.name!r} is no node's output")
    producer.graph.insert_after(producer, node)
