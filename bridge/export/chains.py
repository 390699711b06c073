"""Chains: a convolution whose output goes into one quantizer, so that integers can stay integers.

    Conv | ConvTranspose -> (Relu | Clip | MaxPool | reshapes)* -> QuantizeLinear

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

from bridge.export.constants import Array, constant, reshaper, titled
from bridge.export.integer_form import byte_weight
from bridge.export.interleave import write_interleaved
from bridge.export.layer import QuantizedLayer
from bridge.export.limits import BadLimitsError, limits
from bridge.export.pictures import as_pictures, write_pictures, write_volumes
from bridge.export.scribe import Scribe
from bridge.export.snap import Snapped, snap
from bridge.export.steps import EXACT_BOUND, Grid, Steps
from bridge.export.sub_pixel import Convolution, as_convolution, has_phases

_UINT8 = np.iinfo(np.uint8)
_FAST_POOL = 2


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


@dataclass(frozen=True, slots=True)
class Unchained:
    """A convolution that QLinearConv does not compute.

    Args:
        reason: why not; names the node.
        snapped: the step functions, where they were compared and some channels differ.
    """

    reason: str
    snapped: Snapped | None = None


class NoChainError(Exception):
    """Control flow of the search: the layer is no chain, with the reason."""


def find_chains(
    layers: Sequence[QuantizedLayer], *, max_ulps: int
) -> Mapping[str, Chain | Unchained]:
    """Find the convolutions that can be proven equal to one QLinearConv.

    Args:
        layers: of one graph, with unsigned activations (bridge.export.unsigned).
        max_ulps: how far a rescale may be moved.
    Returns:
        for every convolution, by the layer's name, its chain or why it has none.
    """
    owners = Counter(layer.weight_source for layer in layers)
    chains: dict[str, Chain | Unchained] = {}
    for layer in layers:
        if layer.op != "Conv" and not has_phases(layer):
            continue
        # A torch layer that is called twice has one rescale for both places.
        shared = owners[layer.weight_source] > 1
        try:
            chains[layer.name] = _find(layer, max_ulps=0 if shared else max_ulps, shared=shared)
        except NoChainError as reason:
            chains[layer.name] = Unchained(str(reason))
    return chains


def write_chain(
    chain: Chain, scribe: Scribe, layer: QuantizedLayer, *, in_pictures: bool = False
) -> None:
    """Write a chain as one QLinearConv, and what moves its codes.

    Args:
        chain: from find_chains.
        scribe: writes the nodes.
        layer: the layer.
        in_pictures: write a convolution that has_pictures in two dimensions.
    """
    integer, one = chain.snapped.integer, np.float32(1.0)
    pictures = as_pictures(layer) if in_pictures else None
    if pictures is None:
        # With phases first, blocks of channels are moved to put the codes in order.
        operator, x_q = as_convolution(layer, phases_first=layer.groups == 1), layer.x_q
    else:
        operator = Convolution(pictures.weight, pictures.attributes, None)
        x_q = write_pictures(scribe, layer, pictures)
    phases = operator.phases
    weight, zero_w = byte_weight(scribe, operator.weight, vnni=scribe.vnni)
    scale_w = integer.multiplier
    if phases is not None and scale_w.size > 1:
        scale_w = phases.spread(scale_w)
    zero_y = np.uint8(integer.grid.zero_point)
    if scale_w.size == 1:
        scale_w = scale_w.reshape(())
    operands: list[Any] = [
        x_q,
        one,
        layer.zero_point_x,
        weight,
        scale_w,
        zero_w,
        one,
        zero_y,
    ]
    channels = len(layer.accumulator_bounds)
    bias = np.zeros(channels, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    bias = bias + integer.offset
    if bias.any():
        bias = bias.astype(np.int32)
        operands.append(bias if phases is None else phases.spread(bias))
    codes = scribe.op("QLinearConv", *operands, **operator.attributes)
    codes = write_interleaved(scribe, codes, phases)
    if pictures is not None:
        codes = write_volumes(scribe, layer, codes)
    if integer.code_low > _UINT8.min or integer.code_high < _UINT8.max:
        codes = scribe.op("Clip", codes, np.uint8(integer.code_low), np.uint8(integer.code_high))
    for move in chain.moves:
        rest = [value for value in move.inputs[1:] if value is not None]
        attributes = {name: attribute.value for name, attribute in move.attributes.items()}
        # ONNX Runtime has a fast MaxPool of bytes for two dimensions only.
        slow = move.op_type == "MaxPool" and len(attributes["kernel_shape"]) != _FAST_POOL
        if slow:
            codes = scribe.op("Cast", codes, to=ir.DataType.FLOAT)
        codes = scribe.op(move.op_type, codes, *rest, **attributes)
        if slow:
            codes = scribe.op("Cast", codes, to=ir.DataType.UINT8)
    for quantizer in chain.quantizers:
        scribe.replace(quantizer.outputs[0], codes, ir.DataType.UINT8)


def follow(
    value: ir.Value,
) -> tuple[tuple[ir.Node, ...], tuple[float, float], tuple[ir.Node, ...]]:
    """Follow a layer's output to the quantizers that read it.

    Args:
        value: the output.
    Returns:
        the nodes on the way that move values, the limits that the others set, the quantizers.
    Raises:
        NoChainError: something else is on the way, or reads it.
    """
    moves: list[ir.Node] = []
    low, high = -np.inf, np.inf
    while True:
        users = [use.node for use in value.uses()]
        if value.is_graph_output():
            raise NoChainError(f"{value.name!r} is an output of the model")
        if not users:
            raise NoChainError(f"nothing reads {value.name!r}")
        others = [node for node in users if node.op_type != "QuantizeLinear"]
        if not others:
            _check_quantizers(users)
            return tuple(moves), (low, high), tuple(users)
        node = others[0]
        if len(users) > 1:
            raise NoChainError(f"{titled(node)} and others read {value.name!r}")
        try:
            ends = limits(node)
        except BadLimitsError as reason:
            raise NoChainError(str(reason)) from reason
        if ends is not None:
            low, high = (min(max(end, ends[0]), ends[1]) for end in (low, high))
        elif node.op_type == "MaxPool" or reshaper(node) is not None:
            moves.append(node)
        else:
            raise NoChainError(f"{titled(node)} computes in float")
        if len(node.outputs) > 1:
            raise NoChainError(f"{titled(node)} has a second output")
        value = node.outputs[0]


def _find(layer: QuantizedLayer, *, max_ulps: int, shared: bool) -> Chain | Unchained:
    if layer.zero_point_x.dtype != np.uint8:
        raise NoChainError(f"its input is {layer.zero_point_x.dtype}, not uint8")
    moves, (low, high), quantizers = follow(layer.output)
    scale, zero_point = _numbers(quantizers[0])
    steps = Steps(
        rescale=np.ascontiguousarray(layer.rescale),
        shift=None if layer.norm is None else layer.norm.shift,
        low=low,
        high=high,
        scale=scale,
        grid=Grid(zero_point=zero_point, qmin=_UINT8.min, qmax=_UINT8.max),
    )
    bounds = layer.accumulator_bounds
    if steps.rescale.size == 1:
        bounds = bounds.max(keepdims=True)
    # Beyond 2^24 fake-quant's own sums are measured, not proven.
    snapped = snap(steps, np.minimum(bounds, EXACT_BOUND), max_ulps=max_ulps)
    if not snapped.proven.all():
        missed = int((~snapped.proven).sum())
        how = "unmoved, as two layers share the weight" if shared else f"within {max_ulps} ulps"
        return Unchained(f"{missed} of {len(bounds)} channels have no multiplier {how}", snapped)
    return Chain(moves=moves, quantizers=quantizers, snapped=snapped)


def _check_quantizers(quantizers: Sequence[ir.Node]) -> None:
    """Raise unless quantizers write the same uint8 codes, which stay inside the graph."""
    numbers = {node: _numbers(node) for node in quantizers}
    first = quantizers[0]
    for node, pair in numbers.items():
        if node.outputs[0].is_graph_output():
            raise NoChainError(f"the codes of {titled(node)} are an output of the model")
        if pair != numbers[first]:
            raise NoChainError(
                f"{titled(first)} and {titled(node)} have different scales or zero points"
            )


def _numbers(node: ir.Node) -> tuple[float, int]:
    """Return the scale and the zero point of a quantizer to uint8."""
    scale, zero_point = (constant(value) for value in (*node.inputs, None)[1:3])
    if zero_point is None or zero_point.dtype != np.uint8 or zero_point.size != 1:
        raise NoChainError(f"the zero point of {titled(node)} is not one constant of 8 bits")
    if scale is None or scale.dtype != np.float32 or scale.size != 1 or not 0 < scale < np.inf:
        raise NoChainError(f"the scale of {titled(node)} is not one positive float32 constant")
    return float(scale.reshape(())), int(zero_point.reshape(()))
