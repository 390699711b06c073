"""Groups: values that can share 8-bit codes, as what lies between them only hands codes on.

    operator -> (Relu | Clip)* -> value -> (MaxPool | reshapes | Concat)* -> value

A group gets codes where an operator that computes with them reads one of its values: a quantized
layer, a sum or LeakyRelu whose own result gets codes, or an average of what one of these computed.
What other operators and the model's outputs read keeps its precision and its range, beside codes
too: the output of a layer is then there in both ways, and a sum or LeakyRelu is computed in float.
What a quantizer of more than 8 bits reads gets no codes.
"""

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bridge.export.fast.operators import CODE_OPERATORS
from bridge.export.graph.constants import constant, reshaper
from bridge.export.graph.operators import is_standard, zero_point_input
from bridge.export.read.clamps import after_clamps
from bridge.export.read.qdq import find_uint8_qparams

_AVERAGES = ("AveragePool", "GlobalAveragePool")
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(slots=True, eq=False)
class Group:
    """Values with one scale and one zero point.

    Args:
        sources: the values that are rounded.
        values: these, and what the carriers make of them.
        integral: whether integer operators compute a source: a layer, a sum or a LeakyRelu.
        carriers: nodes that codes pass through, in topological order.
        operators: sums, LeakyRelus and averages that read codes of it.
    """

    sources: list[ir.Value]
    values: list[ir.Value]
    integral: bool
    carriers: list[ir.Node] = field(default_factory=list)
    operators: list[ir.Node] = field(default_factory=list)

    @property
    def quantizers(self) -> list[ir.Node]:
        """The quantizers that read a value and whose codes the group's can be."""
        return [node for node in self._readers() if is_plain_quantizer(node)]

    @property
    def wide(self) -> bool:
        """Whether a quantizer of other than 8 bits reads a value."""
        return any(map(_is_wide, self._readers()))

    def computing(self, computed: Collection[ir.Node]) -> list[ir.Node]:
        """List the operators that read codes of the group.

        Args:
            computed: sums and LeakyRelu nodes on codes.
        """
        return [
            node
            for node in self._readers()
            if node in computed or (self.integral and node.op_type in _AVERAGES)
        ]

    def serves(self, computed: Collection[ir.Node]) -> bool:
        """Whether an operator or a layer reads codes of the group.

        Args:
            computed: as computing's.
        """
        return bool(self.quantizers or self.computing(computed))

    def stays_float(self, value: ir.Value, computed: Collection[ir.Node]) -> bool:
        """Whether something reads a value of the group that does not read codes.

        Args:
            value: one of its values.
            computed: as computing's.
        """
        readers = {use.node for use in value.uses()}
        carriers = readers.intersection(self.carriers)
        others = readers - carriers - {*self.quantizers, *self.computing(computed)}
        carried = (output for node in carriers for output in node.outputs)
        return (
            bool(others)
            or value.is_graph_output()
            or any(self.stays_float(output, computed) for output in carried)
        )

    def _readers(self) -> Iterator[ir.Node]:
        return (use.node for value in self.values for use in value.uses())


def find_groups(graph: ir.Graph, outputs: AbstractSet[ir.Value]) -> list[Group]:
    """Find the groups that get codes.

    Args:
        graph: the main graph, with unsigned activations (bridge.export.passes.uint8_codes).
        outputs: the outputs of quantized layers and products.
    Returns:
        the groups, in topological order.
    """
    refused: set[ir.Node] = set()
    while True:
        owners, candidates = _collect(graph, outputs, refused)
        kept: set[ir.Node] = set()
        # Backwards: whether a sum gets codes depends on who reads it.
        for node in reversed(candidates):
            place = rounding_place(node.outputs[0], past_pools=False)
            result = owners[place]
            operands = [owners[v] for v in node.inputs if v in owners]
            known = all(_is_known(group, node) for group in operands)
            known = known and not any(g.wide for g in (result, *operands))
            if known and result.serves(kept) and not result.stays_float(place, kept):
                kept.add(node)
        if len(kept) == len(candidates):
            every = dict.fromkeys(owners.values())
            found = [group for group in every if group.serves(kept) and not group.wide]
            for group in found:
                group.operators = group.computing(kept)
            return found
        refused.update(set(candidates) - kept)


def is_plain_quantizer(node: ir.Node) -> bool:
    """Whether a node rounds to uint8 codes that only their own DequantizeLinear nodes read.

    Args:
        node: any node.
    """
    if node.op_type != "QuantizeLinear" or node.outputs[0].is_graph_output():
        return False
    numbers = find_uint8_qparams(node)
    readers = [use.node for use in node.outputs[0].uses()]
    return numbers is not None and all(
        reader.op_type == "DequantizeLinear"
        and reader.graph is node.graph
        and find_uint8_qparams(reader) == numbers
        for reader in readers
    )


def rounding_place(value: ir.Value, *, past_pools: bool) -> ir.Value:
    """Follow an operator's output to where it is rounded.

    Args:
        value: the output.
        past_pools: whether a MaxPool that alone reads it comes first, as in a chain of a layer
            (bridge.export.requantization.chains): rounding before and after it are the same.
    Returns:
        the value behind its Relu and Clip nodes.
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
    """Return the groups by their values, and what computes with values that can have codes."""
    owners: dict[ir.Value, Group] = {}
    candidates: list[ir.Node] = []
    for node in graph:
        computes = node.op_type in CODE_OPERATORS and is_standard(node)
        computes = computes and node not in refused
        computes = computes and all(v in owners or _is_dequantized(v) for v in node.inputs)
        is_layer = not outputs.isdisjoint(node.outputs)
        parts = [] if is_layer else _carried(node)
        if computes:
            candidates.append(node)
        groups = [owners[v] for v in parts if v in owners]
        carries = bool(parts) and len(groups) == len(parts)
        # ONNX Runtime's MaxPool on codes is the slower one unless integer operators precede it.
        if carries and (node.op_type != "MaxPool" or groups[0].integral):
            group = _merge(owners, groups)
            group.carriers.append(node)
            group.values.append(node.outputs[0])
            owners[node.outputs[0]] = group
        elif node.op_type not in _PAIRS and constant(node.outputs[0]) is None:
            for value in node.outputs:
                source = rounding_place(value, past_pools=is_layer)
                if source not in owners:
                    owners[source] = Group([source], [source], computes or is_layer)
    return owners, candidates


def _merge(owners: dict[ir.Value, Group], groups: list[Group]) -> Group:
    largest = max(groups, key=lambda group: len(group.values))
    for group in dict.fromkeys(groups):
        if group is not largest:
            largest.sources += group.sources
            largest.values += group.values
            largest.carriers += group.carriers
            largest.integral |= group.integral
            owners.update(dict.fromkeys(group.values, largest))
    return largest


def _is_known(group: Group, reader: ir.Node) -> bool:
    """Whether codes of a group cost its reader nothing: a LeakyRelu has no other quantized use."""
    return group.integral or (reader.op_type == "Add" and bool(group.quantizers))


def _carried(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs whose codes become a node's, if it does nothing else."""
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
