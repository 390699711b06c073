"""Chains: convolutions that requantize to uint8 codes without leaving integers.

    Conv | ConvTranspose -> (Relu | Clip | MaxPool | reshape)* -> QuantizeLinear
        becomes
    QLinearConv -> (Clip on codes | MaxPool | reshape)*

Hypothesis. Only these operators lie between the convolution and its quantizers, all quantizers have
one scale and zero point, and requantization.multipliers proves for every output channel an integer
step function of the accumulator that equals the float one.

Claim. Both sides give the same uint8 codes for every input within the proven bound.

Why. Quantization is monotone, so it commutes with operators that copy values (reshapes) or take the
largest (MaxPool); Relu and Clip become bounds of the codes, which commute with them too. The
exception is a MaxPool window that may hold only padding (geometry.windows): its output is the
lowest code, not a quantized value, so the bounds of later operators clamp it once more.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bridge.export.geometry.conv_transpose import can_be_convolution
from bridge.export.geometry.windows import LOWEST, may_see_only_padding
from bridge.export.graph.constants import Array, describe, reshaper
from bridge.export.graph.copies import Counterparts
from bridge.export.read.clamps import BadLimitsError, clamp_limits
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.qdq import NotQuantizedError, read_uint8_qparams
from bridge.export.read.zero_points import has_one_zero_point
from bridge.export.requantization.multipliers import FittedMultipliers, fit_multipliers
from bridge.export.requantization.step_functions import EXACT_BOUND, FloatSteps, Grid

_UINT8 = np.iinfo(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A convolution, up to the quantizers that read it.

    Args:
        passthrough: MaxPool and shape operators in between, in order; codes pass through them.
        quantizers: QuantizeLinear nodes, all with the same scale and zero point.
        fitted: float and integer step functions, proven equal for every channel.
        clamps: smallest and largest code after the operator and after each node of passthrough;
            None where no Clip is needed.
    """

    passthrough: tuple[ir.Node, ...]
    quantizers: tuple[ir.Node, ...]
    fitted: FittedMultipliers
    clamps: tuple[tuple[int, int] | None, ...]

    def on(self, copy: Counterparts) -> "Chain":
        """Return the same chain with the nodes of a copy of its model.

        Args:
            copy: maps nodes of the model to those of the copy.
        Returns:
            the chain in the copy.
        """
        return replace(
            self,
            passthrough=tuple(copy.nodes[node] for node in self.passthrough),
            quantizers=tuple(copy.nodes[node] for node in self.quantizers),
        )

    @property
    def rescale(self) -> Array:
        """float32 (out,) or (1,): the factor of the accumulators in the fake-quant model."""
        return self.fitted.steps.rescale


@dataclass(frozen=True, slots=True)
class Unchained:
    """A convolution that cannot become a QLinearConv.

    Args:
        reason: why not; names the node.
        fitted: the step functions, if they were compared and some channels are not equal.
    """

    reason: str
    fitted: FittedMultipliers | None = None


class NoChainError(Exception):
    """Control flow of the search: why the layer is no chain."""


def find_chains(
    layers: Sequence[QuantizedLayer], *, max_ulps: int
) -> Mapping[str, Chain | Unchained]:
    """Find the convolutions that are proven equal to one QLinearConv.

    Args:
        layers: of one graph, with uint8 activations (bridge.export.passes.uint8_codes).
        max_ulps: largest adjustment of a rescale, in ulps.
    Returns:
        by layer name, the chain of every convolution or why it has none.
    """
    owners = Counter(layer.weight_source for layer in layers)
    chains: dict[str, Chain | Unchained] = {}
    for layer in layers:
        if layer.op != "Conv" and not can_be_convolution(layer):
            continue
        # A torch layer that is called twice can adopt only one rescale for both calls.
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
        the MaxPool and shape operators in between; the range to which Relu and Clip limit the
        layer's output and the output of each of these; the quantizers.
    Raises:
        NoChainError: another operator is in between, or reads a value in between.
    """
    passthrough: list[ir.Node] = []
    clamped = [(-np.inf, np.inf)]
    while True:
        users = [use.node for use in value.uses()]
        if value.is_graph_output():
            # Only the main graph has opset imports.
            main = value.graph is None or value.graph.opset_imports
            whose = "the model" if main else "a branch or a loop"
            raise NoChainError(f"{value.name!r} is an output of {whose}")
        if not users:
            raise NoChainError(f"nothing reads {value.name!r}")
        others = [node for node in users if node.op_type != "QuantizeLinear"]
        if not others:
            _check_quantizers(users)
            return tuple(passthrough), tuple(clamped), tuple(users)
        node = others[0]
        if len(users) > 1:
            raise NoChainError(f"{describe(node)} and others read {value.name!r}")
        if node.graph is not value.graph:
            # A branch may not run, and a loop more than once: codes cannot be computed outside.
            raise NoChainError(f"{describe(node)} is in a branch or a loop")
        try:
            ends = clamp_limits(node)
        except BadLimitsError as reason:
            raise NoChainError(str(reason)) from reason
        if ends is not None:
            low, high = ends
            clamped = [(min(max(a, low), high), min(max(b, low), high)) for a, b in clamped]
        elif node.op_type == "MaxPool" or reshaper(node) is not None:
            passthrough.append(node)
            clamped.append((-np.inf, np.inf))
        else:
            raise NoChainError(f"{describe(node)} computes in float")
        if len(node.outputs) > 1:
            raise NoChainError(f"{describe(node)} has a second output")
        value = node.outputs[0]


def _find(layer: QuantizedLayer, *, max_ulps: int, shared: bool) -> Chain | Unchained:
    if layer.zero_point_x.dtype != np.uint8:
        raise NoChainError(f"its input is {layer.zero_point_x.dtype}, not uint8")
    if not has_one_zero_point(layer.weight):
        raise NoChainError("the channels of its weight have no common zero point")
    passthrough, clamped, quantizers = follow(layer.output)
    scale, zero_point = _parameters(quantizers[0])
    low, high = clamped[0]
    steps = FloatSteps(
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
    # Beyond 2^24 the float32 sums of the fake-quant model are only measured to be exact.
    fitted = fit_multipliers(steps, np.minimum(bounds, EXACT_BOUND), max_ulps=max_ulps)
    if not fitted.proven.all():
        missed = int((~fitted.proven).sum())
        how = "; none is adjusted for a shared weight" if shared else f" within {max_ulps} ulps"
        return Unchained(f"{missed} of {len(bounds)} channels have no multiplier{how}", fitted)
    clamps = _clamps(steps, passthrough, clamped)
    return Chain(passthrough=passthrough, quantizers=quantizers, fitted=fitted, clamps=clamps)


def _clamps(
    steps: FloatSteps, passthrough: Sequence[ir.Node], clamped: Sequence[tuple[float, float]]
) -> tuple[tuple[int, int] | None, ...]:
    """Return where codes need a Clip: after the operator, and after windows of padding alone."""
    every = _UINT8.min, _UINT8.max
    needed: list[tuple[int, int] | None] = [steps.code_range]
    for node, (low, high) in zip(passthrough, clamped[1:], strict=True):
        alone = may_see_only_padding(node)
        if alone and replace(steps, low=LOWEST, high=LOWEST).code_range != (0, 0):
            raise NoChainError(f"{describe(node)} may see only padding, whose code is not 0")
        needed.append(replace(steps, low=low, high=high).code_range if alone else None)
    later: tuple[int, int] | None = None
    for i, clamp in reversed(list(enumerate(needed))):
        # A Clip that the next one repeats is not needed.
        if clamp in (later, every):
            needed[i] = None
        else:
            later = clamp
    return tuple(needed)


def _check_quantizers(quantizers: Sequence[ir.Node]) -> None:
    """Raise unless the quantizers write equal uint8 codes, none of them a graph output."""
    parameters = {node: _parameters(node) for node in quantizers}
    first = quantizers[0]
    for node, pair in parameters.items():
        if node.outputs[0].is_graph_output():
            raise NoChainError(f"the codes of {describe(node)} are an output of the model")
        if pair != parameters[first]:
            raise NoChainError(
                f"{describe(first)} and {describe(node)} have different scales or zero points"
            )


def _parameters(node: ir.Node) -> tuple[float, int]:
    """Return the scale and the zero point of a quantizer to uint8."""
    try:
        scale, zero_point = read_uint8_qparams(node)
    except NotQuantizedError as reason:
        raise NoChainError(str(reason)) from reason
    return float(scale), zero_point
