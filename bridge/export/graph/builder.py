"""Writes the nodes that a layer's operator is lowered to."""

from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array
from bridge.export.graph.names import LAYER_KEY


class Lowerable(Protocol):
    """What can be lowered: a layer, or a product of two activations."""

    @property
    def name(self) -> str:
        """Module path."""

    @property
    def node(self) -> ir.Node:
        """The float operator."""

    @property
    def output(self) -> ir.Value:
        """The value that the lowered nodes have to compute."""


class Builder:
    """Writes the nodes of one layer directly before its operator, and names them after the layer.

    The nodes are inserted in the operator's own graph, which may be the body of an If, Loop or
    Scan.

    Args:
        layer: the layer or product to lower.
        vnni: write weights as int8, for processors that sum uint8 x int8 products in 32 bits.
    """

    def __init__(self, layer: Lowerable, *, vnni: bool = False) -> None:
        self.vnni = vnni
        self._graph = graph_of(layer.node)
        self._layer = layer
        self._count = 0

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | Array | np.generic,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Write a node and return its output.

        Args:
            op_type: operator type, such as "Conv".
            inputs: values, and arrays, which become initializers.
            domain: of the operator.
            attributes: of the node.
        Returns:
            the only output of the node.
        """
        name = f"{self._layer.name}/{op_type}_{self._count}"
        self._count += 1
        values = [v if isinstance(v, ir.Value) else self._initializer(v, name) for v in inputs]
        node = ir.node(
            op_type,
            values,
            attributes,
            domain=domain,
            name=name,
            outputs=[ir.Value(name=f"{name}_output")],
            metadata_props={LAYER_KEY: self._layer.name},
        )
        self._graph.insert_before(self._layer.node, node)
        return node.outputs[0]

    def replace_output(self, value: ir.Value) -> None:
        """Replace the layer's output by a float value, which also takes its name.

        Args:
            value: output of a written node, float32.
        """
        self.replace(self._layer.output, value, ir.DataType.FLOAT)

    def replace(self, old: ir.Value, value: ir.Value, dtype: ir.DataType) -> None:
        """Replace a value in all its uses by another, which also takes its name.

        The nodes that compute the old value stay, unused, until unused nodes are removed.

        Args:
            old: any value of the graph.
            value: output of a written node.
            dtype: data type of that output.
        """
        name, value.shape, value.type = old.name, old.shape, ir.TensorType(dtype)
        old.name = f"{name}/replaced"
        value.name = name
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)

    def _initializer(self, array: Array | np.generic, user: str) -> ir.Value:
        return add_initializer(
            self._graph, f"{user}_constant_{len(self._graph.initializers)}", array
        )


def graph_of(node: ir.Node) -> ir.Graph:
    """Return the graph that contains a node: the main graph, or the body of an If, Loop or Scan.

    Args:
        node: a node of a model without functions.
    Returns:
        its graph.
    Raises:
        ValueError: the node is in no graph.
    """
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"node {node.name!r} ({node.op_type}) is in no graph")
    return node.graph


def add_initializer(graph: ir.Graph, name: str, array: Array | np.generic) -> ir.Value:
    """Add an initializer to a graph.

    Args:
        graph: it is changed.
        name: of the initializer; underscores are appended if the graph has one of that name, as a
            file that an earlier conversion wrote may.
        array: any shape and dtype.
    Returns:
        the value of the initializer.
    """
    while name in graph.initializers:
        name += "_"
    tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
