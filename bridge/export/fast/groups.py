"""Groups: tensors that must share one scale and zero point (unified scales).

    operator -> (Relu | Clip)* -> value -> (MaxPool | reshape | Concat)* -> value

Only MaxPool, Concat or shape operators lie between the tensors of a group; they copy codes and
cannot change their scale.

A group is quantized if an operator on 8-bit codes reads one of its tensors: a quantized layer, an
Add or LeakyRelu whose own output is quantized, or an average pool after a layer, Add or LeakyRelu.
Float operators and graph outputs go on reading the float tensor: a layer then has a float output
beside the quantized one, while an Add or LeakyRelu stays in float. Groups that a 16-bit quantizer
reads are not quantized.
"""

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bridge.export.fast.operators import CODE_OPERATORS
from bridge.export.graph.constants import constant, reshaper
from bridge.export.graph.operators import QUANTIZERS, is_standard, zero_point_input
from bridge.export.read.clamps import after_clamps
from bridge.export.read.qdq import find_uint8_qparams

_AVERAGES = ("AveragePool", "GlobalAveragePool")


@dataclass(slots=True, eq=False)
class Group:
    """Tensors with one scale and one zero point.

    Args:
        sources: the tensors that get a QuantizeLinear.
        values: the sources, and the outputs of `passthrough`.
        integral: whether a layer, an Add or a LeakyRelu computes a source.
        passthrough: MaxPool, Concat and shape operators in between, in topological order.
        operators: Add, LeakyRelu and average pools that read codes of the group.
    """

    sources: list[ir.Value]
    values: list[ir.Value]
    integral: bool
    passthrough: list[ir.Node] = field(default_factory=list)
    operators: list[ir.Node] = field(default_factory=list)

    @property
    def quantizers(self) -> list[ir.Node]:
        """The quantizers of the group's tensors that the group's codes can replace."""
        return [node for node in self._readers() if is_plain_quantizer(node)]

    @property
    def wide(self) -> bool:
        """Whether a quantizer to 16 bits reads a tensor of the group."""
        return any(map(_is_wide, self._readers()))

    def operators_on_codes(self, computed: Collection[ir.Node]) -> list[ir.Node]:
        """List the operators that read codes of the group.

        Args:
            computed: Add and LeakyRelu nodes that run on codes.
        Returns:
            those that read the group, and its average pools.
        """
        return [
            node
            for node in self._readers()
            if node in computed or (self.integral and node.op_type in _AVERAGES)
        ]

    def is_read_as_codes(self, computed: Collection[ir.Node]) -> bool:
        """Whether a layer or another operator reads codes of the group.

        Args:
            computed: Add and LeakyRelu nodes that run on codes.
        Returns:
            False if all its readers are float operators or graph outputs.
        """
        return bool(self.quantizers or self.operators_on_codes(computed))

    def is_read_as_float(self, value: ir.Value, computed: Collection[ir.Node]) -> bool:
        """Whether a float operator or a graph output reads a tensor, or what is made of it.

        Args:
            value: a tensor of the group.
            computed: Add and LeakyRelu nodes that run on codes.
        Returns:
            True also if that reads the output of a node of `passthrough`.
        """
        readers = {use.node for use in value.uses()}
        passthrough = readers.intersection(self.passthrough)
        others = readers - passthrough - {*self.quantizers, *self.operators_on_codes(computed)}
        outputs = (output for node in passthrough for output in node.outputs)
        return (
            bool(others)
            or value.is_graph_output()
            or any(self.is_read_as_float(output, computed) for output in outputs)
        )

    def _readers(self) -> Iterator[ir.Node]:
        return (use.node for value in self.values for use in value.uses())


def find_groups(graph: ir.Graph, outputs: AbstractSet[ir.Value]) -> list[Group]:
    """Find the groups that are to be quantized.

    Args:
        graph: the main graph, with uint8 activations (bridge.export.passes.uint8_codes).
        outputs: the outputs of quantized layers and products.
    Returns:
        the groups, in topological order.
    """
    refused: set[ir.Node] = set()
    while True:
        owners, candidates = _collect(graph, outputs, refused)
        kept: set[ir.Node] = set()
        # In reverse: whether an Add runs on codes depends on its readers.
        for node in reversed(candidates):
            source = rounded_value(node.outputs[0], past_pools=False)
            result = owners[source]
            operands = [owners[v] for v in node.inputs if v in owners]
            known = all(_is_known(group, node) for group in operands)
            known = known and not any(g.wide for g in (result, *operands))
            read_as_codes = result.is_read_as_codes(kept)
            if known and read_as_codes and not result.is_read_as_float(source, kept):
                kept.add(node)
        if len(kept) == len(candidates):
            every = dict.fromkeys(owners.values())
            found = [group for group in every if group.is_read_as_codes(kept) and not group.wide]
            for group in found:
                group.operators = group.operators_on_codes(kept)
            return found
        refused.update(set(candidates) - kept)


def is_plain_quantizer(node: ir.Node) -> bool:
    """Whether a node quantizes to uint8 and only its own DequantizeLinear nodes read the codes.

    Args:
        node: any node.
    Returns:
        False too if the codes are a graph output, or a DequantizeLinear has another scale or zero
        point.
    """
    if node.op_type != "QuantizeLinear" or node.outputs[0].is_graph_output():
        return False
    qparams = find_uint8_qparams(node)
    readers = [use.node for use in node.outputs[0].uses()]
    return qparams is not None and all(
        reader.op_type == "DequantizeLinear"
        and reader.graph is node.graph
        and find_uint8_qparams(reader) == qparams
        for reader in readers
    )


def rounded_value(value: ir.Value, *, past_pools: bool) -> ir.Value:
    """Return the value that is quantized for an operator's output: the one after its activation.

    Args:
        value: the output.
        past_pools: whether to go past a MaxPool that is the only reader, as in the chain of a
            layer (bridge.export.requantization.chains); it commutes with quantization.
    Returns:
        the value after the operator's Relu and Clip nodes.
    """
    value = after_clamps(value)[0]
    while past_pools and not value.is_graph_output():
        users = [use.node for use in value.uses()]
        if len(users) != 1 or users[0].op_type != "MaxPool" or len(users[0].outputs) > 1:
            break
        if users[0].graph is not value.graph:
            break
        value = after_clamps(users[0].outputs[0])[0]
    return value


def _collect(
    graph: ir.Graph, outputs: AbstractSet[ir.Value], refused: Collection[ir.Node]
) -> tuple[dict[ir.Value, Group], list[ir.Node]]:
    """Return the groups by tensor, and the Add and LeakyRelu nodes that could run on codes."""
    owners: dict[ir.Value, Group] = {}
    candidates: list[ir.Node] = []
    for node in graph:
        computes = node.op_type in CODE_OPERATORS and is_standard(node)
        computes = computes and node not in refused
        computes = computes and all(v in owners or _is_dequantized(v) for v in node.inputs)
        is_layer = not outputs.isdisjoint(node.outputs)
        parts = [] if is_layer else _passthrough_inputs(node)
        if computes:
            candidates.append(node)
        groups = [owners[v] for v in parts if v in owners]
        passes_codes = bool(parts) and len(groups) == len(parts)
        # ONNX Runtime's uint8 MaxPool is slower than float unless integer operators precede it.
        if passes_codes and (node.op_type != "MaxPool" or groups[0].integral):
            group = _merge(owners, groups)
            group.passthrough.append(node)
            group.values.append(node.outputs[0])
            owners[node.outputs[0]] = group
        elif node.op_type not in QUANTIZERS and constant(node.outputs[0]) is None:
            for value in node.outputs:
                source = rounded_value(value, past_pools=is_layer)
                if source not in owners:
                    owners[source] = Group([source], [source], computes or is_layer)
    return owners, candidates


def _merge(owners: dict[ir.Value, Group], groups: list[Group]) -> Group:
    largest = max(groups, key=lambda group: len(group.values))
    for group in dict.fromkeys(groups):
        if group is not largest:
            largest.sources += group.sources
            largest.values += group.values
            largest.passthrough += group.passthrough
            largest.integral |= group.integral
            owners.update(dict.fromkeys(group.values, largest))
    return largest


def _is_known(group: Group, reader: ir.Node) -> bool:
    """Whether a reader may run on codes: integers compute the group, or an Add shares them."""
    return group.integral or (reader.op_type == "Add" and bool(group.quantizers))


def _passthrough_inputs(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs of a node that only copies or selects codes; none for other nodes."""
    if node.op_type == "Concat":
        return list(node.inputs)
    if node.op_type == "MaxPool":
        return [node.inputs[0]] if len(node.outputs) == 1 else []
    return [node.inputs[0]] if reshaper(node) is not None else []


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return False
    return find_uint8_qparams(producer) is not None and constant(producer.inputs[0]) is None


def _is_wide(node: ir.Node) -> bool:
    zero = constant(zero_point_input(node)) if node.op_type == "QuantizeLinear" else None
    return zero is not None and zero.dtype not in (np.int8, np.uint8)
