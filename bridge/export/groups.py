"""Groups: values that can share 8-bit codes, as what lies between them only hands codes on.

    operator -> (Relu | Clip)* -> value -> (MaxPool | reshapes | Concat)* -> value

A group gets codes where an operator that computes with them reads one of its values: a quantized
layer, a sum whose own result gets codes, or an average of what a layer or such a sum computed. What
only other operators and the model's outputs read keeps its precision, and so does what a quantizer
of more than 8 bits reads.
"""

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bridge.export.constants import constant, reshaper
from bridge.export.limits import behind_limits
from bridge.export.unsigned import unsigned_numbers

_AVERAGES = ("AveragePool", "GlobalAveragePool")
_PAIRS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(slots=True, eq=False)
class Group:
    """Values with one scale and one zero point.

    Args:
        sources: the values that are rounded.
        values: these, and what the carriers make of them.
        integral: whether integer operators compute a source: a layer, or a sum.
        carriers: nodes that codes pass through, in topological order.
    """

    sources: list[ir.Value]
    values: list[ir.Value]
    integral: bool
    carriers: list[ir.Node] = field(default_factory=list)

    @property
    def quantizers(self) -> list[ir.Node]:
        """The quantizers that read a value and whose codes the group's can be."""
        return [node for node in self._readers() if is_plain_quantizer(node)]

    @property
    def wide(self) -> bool:
        """Whether a quantizer of other than 8 bits reads a value."""
        return any(map(_is_wide, self._readers()))

    def serves(self, adds: Collection[ir.Node]) -> bool:
        """Whether an operator reads codes of the group.

        Args:
            adds: sums of codes.
        """
        return any(
            node in adds
            or is_plain_quantizer(node)
            or (self.integral and node.op_type in _AVERAGES)
            for node in self._readers()
        )

    def _readers(self) -> Iterator[ir.Node]:
        return (use.node for value in self.values for use in value.uses())


def find_groups(graph: ir.Graph, outputs: AbstractSet[ir.Value]) -> list[Group]:
    """Find the groups that get codes.

    Args:
        graph: the main graph, with unsigned activations (bridge.export.unsigned).
        outputs: the outputs of quantized layers and products.
    Returns:
        the groups, in topological order.
    """
    refused: set[ir.Node] = set()
    while True:
        owners, adds = _collect(graph, outputs, refused)
        kept: set[ir.Node] = set()
        # Backwards: whether a sum gets codes depends on who reads it.
        for add in reversed(adds):
            result = owners[_result(add.outputs[0])]
            operands = [owners[v] for v in add.inputs if v in owners]
            known = all(group.integral or group.quantizers for group in operands)
            if known and result.serves(kept) and not any(g.wide for g in (result, *operands)):
                kept.add(add)
        if len(kept) == len(adds):
            every = dict.fromkeys(owners.values())
            return [group for group in every if group.serves(kept) and not group.wide]
        refused.update(set(adds) - kept)


def is_plain_quantizer(node: ir.Node) -> bool:
    """Whether a node rounds to uint8 codes that only their own DequantizeLinear nodes read.

    Args:
        node: any node.
    """
    if node.op_type != "QuantizeLinear" or node.outputs[0].is_graph_output():
        return False
    numbers = unsigned_numbers(node)
    readers = [use.node for use in node.outputs[0].uses()]
    return numbers is not None and all(
        reader.op_type == "DequantizeLinear"
        and reader.graph is node.graph
        and unsigned_numbers(reader) == numbers
        for reader in readers
    )


def _collect(
    graph: ir.Graph, outputs: AbstractSet[ir.Value], refused: Collection[ir.Node]
) -> tuple[dict[ir.Value, Group], list[ir.Node]]:
    """Return the groups by their values, and the sums of values that have or can have codes."""
    owners: dict[ir.Value, Group] = {}
    adds: list[ir.Node] = []
    for node in graph:
        is_add = node.op_type == "Add" and node not in refused
        is_add = is_add and all(v in owners or _is_dequantized(v) for v in node.inputs)
        is_layer = not outputs.isdisjoint(node.outputs)
        parts = [] if is_layer else _carried(node)
        if is_add:
            adds.append(node)
        if parts and all(v in owners for v in parts):
            group = _merge(owners, [owners[v] for v in parts if v is not None])
            group.carriers.append(node)
            group.values.append(node.outputs[0])
            owners[node.outputs[0]] = group
        elif node.op_type not in _PAIRS and constant(node.outputs[0]) is None:
            for source in map(_result, node.outputs):
                if source not in owners:
                    owners[source] = Group([source], [source], is_add or is_layer)
    return owners, adds


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


def _result(value: ir.Value) -> ir.Value:
    return behind_limits(value)[0]


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
    return unsigned_numbers(producer) is not None and constant(producer.inputs[0]) is None


def _is_wide(node: ir.Node) -> bool:
    if node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
        return False
    zero = constant(node.inputs[2])
    return zero is not None and zero.dtype not in (np.int8, np.uint8)
