"""Copies of a model, and where in one the nodes and values of the other are.

What was read from a model once can so be written in several copies of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Counterparts:
    """Where the nodes and values of a model are in a copy.

    Args:
        nodes: the copy's node of each node.
        values: the copy's value of each value that a node computes.
    """

    nodes: Mapping[ir.Node, ir.Node]
    values: Mapping[ir.Value, ir.Value]


def copy_model(model: ir.Model) -> tuple[ir.Model, Counterparts]:
    """Copy a model, and say where everything is in the copy.

    Args:
        model: any; it is left as it is.
    Returns:
        the copy, which shares the tensors of the model, and the counterparts.
    """
    copy = model.clone()
    walk = ir.traversal.RecursiveGraphIterator
    nodes = dict(zip(walk(model.graph), walk(copy.graph), strict=True))
    values = {
        value: twin
        for node, same in nodes.items()
        for value, twin in zip(node.outputs, same.outputs, strict=True)
    }
    return copy, Counterparts(nodes, values)


def extract(
    graph: ir.Graph, inputs: list[ir.Value], outputs: list[ir.Value]
) -> tuple[ir.Graph, Counterparts]:
    """Copy a part of a main graph, and say where everything is in the copy.

    Args:
        graph: a main graph, whose values have unique names.
        inputs: where the part begins; they become inputs of the copy.
        outputs: where it ends.
    Returns:
        the copy, and the counterparts of its nodes and values, the inputs' not among them.
    """
    part = ir.convenience.extract(graph, inputs, outputs)
    values = {value.name: value for node in part for value in node.outputs}
    found = {
        value: values[value.name]
        for node in graph
        for value in node.outputs
        if value.name in values
    }
    nodes = {node: found[node.outputs[0]].producer() for node in graph if node.outputs[0] in found}
    return part, Counterparts({k: v for k, v in nodes.items() if v is not None}, found)
