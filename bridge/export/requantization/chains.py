"""Chains: a convolution whose output goes into one quantizer, so that integers can stay integers.

    Conv | ConvTranspose -> (Relu | Clip | MaxPool | reshapes)* -> QuantizeLinear

In float it is a step function of the sums; where requantization.multipliers finds an integer one
that is equal for every sum, one QLinearConv computes it. Relu and Clip are limits of the codes.
Operators that move values, or pick the largest, do the same with codes: limits commute with them,
except with a MaxPool that may see only padding (geometry.windows), whose codes are clamped by the
limits after it once more.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv_transpose import has_phases
from bridge.export.geometry.windows import LOWEST, may_see_only_padding
from bridge.export.graph.constants import Array, reshaper, titled
from bridge.export.graph.copies import Counterparts
from bridge.export.read.clamps import BadLimitsError, limits
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.qdq import NotQuantizedError, read_uint8
from bridge.export.read.zero_points import has_zero_point
from bridge.export.requantization.multipliers import Snapped, snap
from bridge.export.requantization.step_functions import EXACT_BOUND, Grid, Steps

_UINT8 = np.iinfo(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A layer, up to the quantizers that read it.

    Args:
        moves: the nodes in between that codes pass through, in order.
        quantizers: QuantizeLinear nodes, all with the same scale and zero point.
        snapped: both forms of the step function, equal for every sum.
        clamps: the smallest and the largest code of the operator's output and after each move,
            None where nothing is left to clamp.
    """

    moves: tuple[ir.Node, ...]
    quantizers: tuple[ir.Node, ...]
    snapped: Snapped
    clamps: tuple[tuple[int, int] | None, ...]

    def on(self, copy: Counterparts) -> "Chain":
        """Return the chain as it stands in a copy of its model.

        Args:
            copy: where the nodes of the model are.
        """
        return replace(
            self,
            moves=tuple(copy.nodes[node] for node in self.moves),
            quantizers=tuple(copy.nodes[node] for node in self.quantizers),
        )

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
        layers: of one graph, with unsigned activations (bridge.export.passes.uint8_codes).
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


def follow(
    value: ir.Value,
) -> tuple[tuple[ir.Node, ...], tuple[tuple[float, float], ...], tuple[ir.Node, ...]]:
    """Follow a layer's output to the quantizers that read it.

    Args:
        value: the output.
    Returns:
        the nodes on the way that move values; what the others clamp the layer's output to, and the
        output of each such node; the quantizers.
    Raises:
        NoChainError: something else is on the way, or reads it.
    """
    moves: list[ir.Node] = []
    clamped = [(-np.inf, np.inf)]
    while True:
        users = [use.node for use in value.uses()]
        if value.is_graph_output():
            # Of all graphs only the main one states its opset.
            main = value.graph is None or value.graph.opset_imports
            whose = "the model" if main else "a branch or a loop"
            raise NoChainError(f"{value.name!r} is an output of {whose}")
        if not users:
            raise NoChainError(f"nothing reads {value.name!r}")
        others = [node for node in users if node.op_type != "QuantizeLinear"]
        if not others:
            _check_quantizers(users)
            return tuple(moves), tuple(clamped), tuple(users)
        node = others[0]
        if len(users) > 1:
            raise NoChainError(f"{titled(node)} and others read {value.name!r}")
        if node.graph is not value.graph:
            # It may not run, or run many times, and fail where it should not run.
            raise NoChainError(f"{titled(node)} is in a branch or a loop")
        try:
            ends = limits(node)
        except BadLimitsError as reason:
            raise NoChainError(str(reason)) from reason
        if ends is not None:
            low, high = ends
            clamped = [(min(max(a, low), high), min(max(b, low), high)) for a, b in clamped]
        elif node.op_type == "MaxPool" or reshaper(node) is not None:
            moves.append(node)
            clamped.append((-np.inf, np.inf))
        else:
            raise NoChainError(f"{titled(node)} computes in float")
        if len(node.outputs) > 1:
            raise NoChainError(f"{titled(node)} has a second output")
        value = node.outputs[0]


def _find(layer: QuantizedLayer, *, max_ulps: int, shared: bool) -> Chain | Unchained:
    if layer.zero_point_x.dtype != np.uint8:
        raise NoChainError(f"its input is {layer.zero_point_x.dtype}, not uint8")
    if not has_zero_point(layer.weight):
        raise NoChainError("its channels have no zero point of the weight in common")
    moves, clamped, quantizers = follow(layer.output)
    scale, zero_point = _parameters(quantizers[0])
    low, high = clamped[0]
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
    clamps = _clamps(steps, moves, clamped)
    return Chain(moves=moves, quantizers=quantizers, snapped=snapped, clamps=clamps)


def _clamps(
    steps: Steps, moves: Sequence[ir.Node], clamped: Sequence[tuple[float, float]]
) -> tuple[tuple[int, int] | None, ...]:
    """Return where codes have to be clamped: at first, and where a window without values ends."""
    every = _UINT8.min, _UINT8.max
    needed: list[tuple[int, int] | None] = [steps.code_range]
    for move, (low, high) in zip(moves, clamped[1:], strict=True):
        alone = may_see_only_padding(move)
        if alone and replace(steps, low=LOWEST, high=LOWEST).code_range != (0, 0):
            raise NoChainError(f"{titled(move)} may see only padding, whose code is not 0")
        needed.append(replace(steps, low=low, high=high).code_range if alone else None)
    later: tuple[int, int] | None = None
    for i, clamp in reversed(list(enumerate(needed))):
        # What is clamped alike once more later need not be clamped before.
        if clamp in (later, every):
            needed[i] = None
        else:
            later = clamp
    return tuple(needed)


def _check_quantizers(quantizers: Sequence[ir.Node]) -> None:
    """Raise unless quantizers write the same uint8 codes, which stay inside the graph."""
    numbers = {node: _parameters(node) for node in quantizers}
    first = quantizers[0]
    for node, pair in numbers.items():
        if node.outputs[0].is_graph_output():
            raise NoChainError(f"the codes of {titled(node)} are an output of the model")
        if pair != numbers[first]:
            raise NoChainError(
                f"{titled(first)} and {titled(node)} have different scales or zero points"
            )


def _parameters(node: ir.Node) -> tuple[float, int]:
    """Return the scale and the zero point of a quantizer to uint8."""
    try:
        scale, zero_point = read_uint8(node)
    except NotQuantizedError as reason:
        raise NoChainError(str(reason)) from reason
    return float(scale), zero_point
