"""Products of two quantized activations.

a -> QuantizeLinear -> DequantizeLinear -+-> MatMul -> y
b -> QuantizeLinear -> DequantizeLinear -+
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array
from bridge.export.graph.copies import Counterparts
from bridge.export.read.accumulator import accumulator_limit
from bridge.export.read.layers import check_product, named_operators
from bridge.export.read.qdq import (
    NotQuantizedError,
    dequantizer_of,
    is_activation,
    read_per_tensor_input,
    read_quantized_constant,
)
from qatfunc.limits import EXACT_FLOAT32


@dataclass(frozen=True, slots=True)
class Operand:
    """A quantized activation that is an operand.

    Args:
        pair: its DequantizeLinear.
        scale: float32 scalar.
        zero_point: scalar of the dtype of x_q: int8, uint8, int16 or uint16.
    """

    pair: ir.Node
    scale: np.float32
    zero_point: Array

    @property
    def x_q(self) -> ir.Value:
        """The quantized activation, before its DequantizeLinear."""
        codes = self.pair.inputs[0]
        if codes is None:
            raise ValueError(f"node {self.pair.name!r} has no input")
        return codes

    def on(self, copy: Counterparts) -> "Operand":
        """Return the same operand in a copy of its model.

        Args:
            copy: maps nodes of the model to those of the copy.
        """
        return replace(self, pair=copy.nodes[self.pair])

    @property
    def wide(self) -> bool:
        """Whether it is quantized to 16 bits."""
        return self.zero_point.dtype.itemsize > 1

    @property
    def max_abs(self) -> int:
        """Largest |x_q - zero_point|."""
        info, zero = np.iinfo(self.zero_point.dtype), int(self.zero_point)
        return max(info.max - zero, zero - info.min)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedProduct:
    """A product of two quantized activations.

        y = float32((a - zero_point_a) @ (b - zero_point_b)) * (scale_a * scale_b)

    Args:
        name: module path.
        node: the float MatMul.
        output: its output.
        operands: a and b.
        depth: number of products in one sum, None if the file does not state it.
    """

    name: str
    node: ir.Node
    output: ir.Value
    operands: tuple[Operand, Operand]
    depth: int | None

    def on(self, copy: Counterparts) -> "QuantizedProduct":
        """Return the same product in a copy of its model.

        Args:
            copy: maps nodes and values of the model to those of the copy.
        """
        a, b = (operand.on(copy) for operand in self.operands)
        node, output = copy.nodes[self.node], copy.values[self.output]
        return replace(self, node=node, output=output, operands=(a, b))

    @property
    def wide(self) -> bool:
        """Whether an operand has 16 bits, so that the accumulator is int64."""
        return any(operand.wide for operand in self.operands)

    @property
    def rescale(self) -> np.float32:
        """float32: scale_a * scale_b."""
        return np.float32(self.operands[0].scale * self.operands[1].scale)

    @property
    def accumulator_bound(self) -> int | None:
        """Largest |acc| for any input, None if the depth is not known."""
        if self.depth is None:
            return None
        return self.depth * self.operands[0].max_abs * self.operands[1].max_abs

    @property
    def proven(self) -> bool:
        """Whether every float32 sum is exact for any input."""
        bound = self.accumulator_bound
        return bound is not None and bound < EXACT_FLOAT32


def read_products(
    graph: ir.Graph, layers: Iterable[ir.Node] = ()
) -> tuple[list[QuantizedProduct], dict[str, str]]:
    """Find the products of two quantized activations in a graph.

    Args:
        graph: the main graph of a QDQ model; its subgraphs are read too.
        layers: operators that are already read as layers; a per-tensor weight looks like an
            activation.
    Returns:
        the products in topological order; and for other MatMul of two activations, by name, the
        reason why they are not read.
    """
    products, reasons = [], {}
    taken = set(layers)
    for name, node in named_operators(graph):
        if node.op_type != "MatMul" or node in taken:
            continue
        try:
            products.append(read_product(node, name))
        except NotQuantizedError as reason:
            if is_activation(node.inputs[1]):
                reasons[name] = str(reason)
    return products, reasons


def read_product(node: ir.Node, name: str) -> QuantizedProduct:
    """Read a product of two quantized activations.

    Args:
        node: a MatMul.
        name: its module path.
    Returns:
        the product.
    Raises:
        NotQuantizedError: an operand is not quantized per tensor to 8 or 16 bits, or sums can
            exceed the accumulator.
    """
    operands = (_operand(node, 0), _operand(node, 1))
    check_product(operands[0].scale, operands[1].scale.reshape(1))
    product = QuantizedProduct(
        name=name, node=node, output=node.outputs[0], operands=operands, depth=_depth(node)
    )
    if (product.accumulator_bound or 0) > accumulator_limit(wide=product.wide):
        kind = "2^53" if product.wide else "int32"
        raise NotQuantizedError(f"its sums of {product.depth} products can exceed {kind}")
    return product


def _operand(node: ir.Node, index: int) -> Operand:
    try:
        pair, scale, zero_point = read_per_tensor_input(node, index)
    except NotQuantizedError as reason:
        which = "its second input" if index else "its input"
        raise NotQuantizedError(str(reason).replace("its input", which, 1)) from reason
    dequantize = dequantizer_of(node.inputs[index])[0]
    if dequantize is not None and not is_activation(node.inputs[index]):
        read_quantized_constant(dequantize)  # raises if the integers of a constant are not known
    return Operand(pair, scale, zero_point)


def _depth(node: ir.Node) -> int | None:
    """Return the number of products in one sum: the last axis of the left operand."""
    left, right = (None if value is None else value.shape for value in node.inputs)
    sizes = [] if left is None else [left[-1]]
    if right is not None:
        sizes.append(right[-2] if len(right) > 1 else right[0])  # a vector has one axis
    return next((size for size in sizes if isinstance(size, int)), None)
