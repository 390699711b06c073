"""Copies of a model, with the nodes and values that correspond to those of the original.

So a model is read once, and the result is written into several copies of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Counterparts:
    """Maps from the nodes and values of a model to those of a copy.

    Args:
        nodes: from node to node.
        values: from value to value, for every output of a node.
    """

    nodes: Mapping[ir.Node, ir.Node]
    values: Mapping[ir.Value, ir.Value]


def copy_model(model: ir.Model) -> tuple[ir.Model, Counterparts]:
    """Copy a model and map its nodes and values to those of the copy.

    Args:
        model: any; it is not changed.
    Returns:
        the copy, which shares the tensors of the model, and the maps.
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
    """Copy a part of a main graph and map its nodes and values to those of the copy.

    Args:
        graph: a main graph, whose values have unique names.
        inputs: values that become the inputs of the copy.
        outputs: values that become its outputs.
    Returns:
        the copy, and the maps, which do not contain the inputs.
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
