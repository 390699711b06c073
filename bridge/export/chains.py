"""Chains: a convolution whose output goes into one quantizer, so that integers can stay integers.

    Conv -> (Relu | Clip | MaxPool | reshapes)* -> QuantizeLinear

In float it is a step function of the sums; where bridge.export.snap finds an integer one that is
equal for every sum, one QLinearConv computes it. Relu and Clip are limits of the codes. What
moves values about, or picks the largest, does so with their codes just as well.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.constants import Array, constant, reshaper
from bridge.export.integer_form import byte_weight
from bridge.export.layer import QuantizedLayer
from bridge.export.limits import limits
from bridge.export.scribe import Scribe
from bridge.export.snap import Snapped, snap
from bridge.export.steps import EXACT_BOUND, Grid, Steps

_UINT8 = np.iinfo(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A layer, up to the quantizers that read it.

    Args:
        moves: the nodes in between that codes pass through, in order.
        quantizers: QuantizeLinear nodes, all with the same scale and zero point.
        snapped: both forms of the step function, equal for every sum.
    """

    moves: tuple[ir.Node, ...]
    quantizers: tuple[ir.Node, ...]
    snapped: Snapped

    @property
    def rescale(self) -> Array:
        """float32 (out,) or (1,): what fake-quant multiplies the sums by."""
        return self.snapped.steps.rescale


def find_chains(layers: Sequence[QuantizedLayer], *, max_ulps: int) -> Mapping[str, Chain]:
    """Find the layers that can be proven equal to one QLinearConv.

    Args:
        layers: of one graph, with unsigned activations (bridge.export.unsigned).
        max_ulps: how far a rescale may be moved.
    Returns:
        chains by the layer's name.
    """
    owners = Counter(layer.weight_source for layer in layers)
    chains = {}
    for layer in layers:
        # A torch layer that is called twice has one rescale for both places.
        shared = owners[layer.weight_source] > 1
        chain = _find(layer, max_ulps=0 if shared else max_ulps)
        if chain is not None:
            chains[layer.name] = chain
    return chains


def write_chain(chain: Chain, scribe: Scribe, layer: QuantizedLayer) -> None:
    """Write a chain as one QLinearConv, and what moves its codes.

    Args:
        chain: from find_chains.
        scribe: writes the nodes.
        layer: the layer.
    """
    integer, one = chain.snapped.integer, np.float32(1.0)
    weight, zero_w = byte_weight(scribe, layer.weight, vnni=scribe.vnni)
    scale_w = integer.multiplier
    zeros_w = np.full(scale_w.shape, zero_w)
    zero_y = np.uint8(integer.grid.zero_point)
    if scale_w.size == 1:
        scale_w, zeros_w = scale_w.reshape(()), zeros_w.reshape(())
    operands: list[Any] = [
        layer.x_q,
        one,
        layer.zero_point_x,
        weight,
        scale_w,
        zeros_w,
        one,
        zero_y,
    ]
    channels = layer.weight.shape[0]
    bias = np.zeros(channels, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    bias = bias + integer.offset
    if bias.any():
        operands.append(bias.astype(np.int32))
    codes = scribe.op("QLinearConv", *operands, **layer.attributes)
    if integer.code_low > _UINT8.min or integer.code_high < _UINT8.max:
        codes = scribe.op("Clip", codes, np.uint8(integer.code_low), np.uint8(integer.code_high))
    for move in chain.moves:
        rest = [value for value in move.inputs[1:] if value is not None]
        attributes = {name: attribute.value for name, attribute in move.attributes.items()}
        codes = scribe.op(move.op_type, codes, *rest, **attributes)
    for quantizer in chain.quantizers:
        scribe.replace(quantizer.outputs[0], codes, ir.DataType.UINT8)


def _find(layer: QuantizedLayer, *, max_ulps: int) -> Chain | None:
    if layer.op != "Conv" or layer.zero_point_x.dtype != np.uint8:
        return None
    found = _follow(layer.output)
    if found is None:
        return None
    moves, (low, high), quantizers = found
    scale, zero_point = (constant(value) for value in quantizers[0].inputs[1:3])
    if scale is None or zero_point is None:
        return None
    steps = Steps(
        rescale=np.ascontiguousarray(layer.rescale),
        shift=None if layer.norm is None else layer.norm.shift,
        low=low,
        high=high,
        scale=float(scale.reshape(())),
        grid=Grid(zero_point=int(zero_point.reshape(())), qmin=_UINT8.min, qmax=_UINT8.max),
    )
    bounds = layer.accumulator_bounds
    if steps.rescale.size == 1:
        bounds = bounds.max(keepdims=True)
    # Beyond 2^24 fake-quant's own sums are measured, not proven.
    snapped = snap(steps, np.minimum(bounds, EXACT_BOUND), max_ulps=max_ulps)
    if not snapped.proven.all():
        return None
    return Chain(moves=moves, quantizers=quantizers, snapped=snapped)


def _follow(
    value: ir.Value,
) -> tuple[tuple[ir.Node, ...], tuple[float, float], tuple[ir.Node, ...]] | None:
    """Return the moves, the limits of the activations and the quantizers behind a layer."""
    moves: list[ir.Node] = []
    low, high = -np.inf, np.inf
    while True:
        users = [use.node for use in value.uses()]
        if not users or value.is_graph_output():
            return None
        if all(node.op_type == "QuantizeLinear" for node in users):
            quantizers = tuple(users)
            return (tuple(moves), (low, high), quantizers) if _are_one(quantizers) else None
        node = users[0]
        if len(users) > 1 or node.inputs[0] is not value or len(node.outputs) > 1:
            return None
        ends = limits(node)
        if ends is not None:
            low, high = (min(max(end, ends[0]), ends[1]) for end in (low, high))
        elif node.op_type == "MaxPool" or reshaper(node) is not None:
            moves.append(node)
        else:
            return None
        value = node.outputs[0]


def _are_one(quantizers: Sequence[ir.Node]) -> bool:
    """Whether quantizers write the same uint8 codes, which stay inside the graph."""
    numbers = []
    for node in quantizers:
        if len(node.inputs) < 3 or node.outputs[0].is_graph_output():
            return False
        scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2])
        if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
            return False
        if scale.dtype != np.float32 or zero_point.dtype != np.uint8:
            return False
        numbers.append((float(scale.reshape(())), int(zero_point.reshape(()))))
    return len(set(numbers)) == 1 and 0 < numbers[0][0] < np.inf
