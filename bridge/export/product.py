"""Products of two quantized activations: reading them, and their forms.

Both operands of the MatMul come out of a Q/DQ pair: y = MatMul(DQ(Q(a)), DQ(Q(b))).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bridge.export.ascend import ascend_input, reciprocal_input
from bridge.export.bias import INT32_MAX
from bridge.export.constants import Array
from bridge.export.integer_form import unsigned_input
from bridge.export.layer import EXACT_FLOAT32
from bridge.export.pairs import (
    NotQuantizedError,
    dequantizer_of,
    is_activation,
    read_activation,
    read_stored,
)
from bridge.export.reader import check_product, named_operators
from bridge.export.scribe import Scribe
from bridge.export.wide import join_halves, split_codes


@dataclass(frozen=True, slots=True)
class Operand:
    """A quantized activation.

    Args:
        x_q: int8, uint8, int16 or uint16.
        scale: float32 scalar.
        zero_point: scalar of x_q's dtype.
    """

    x_q: ir.Value
    scale: np.float32
    zero_point: Array

    @property
    def wide(self) -> bool:
        """Whether it has 16 bits."""
        return self.zero_point.dtype.itemsize > 1

    @property
    def reach(self) -> int:
        """Largest |x_q - zero_point|."""
        info, zero = np.iinfo(self.zero_point.dtype), int(self.zero_point)
        return max(info.max - zero, zero - info.min)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedProduct:
    """What a product of two quantized activations computes.

        y = float32((a - zero_point_a) @ (b - zero_point_b)) * (scale_a * scale_b)

    Args:
        name: module path.
        node: the float MatMul.
        output: the value it produces.
        operands: a and b.
        depth: elements in one sum, None where the file does not say.
    """

    name: str
    node: ir.Node
    output: ir.Value
    operands: tuple[Operand, Operand]
    depth: int | None

    @property
    def wide(self) -> bool:
        """Whether an operand has 16 bits; the sums meet in int64 then."""
        return any(operand.wide for operand in self.operands)

    @property
    def rescale(self) -> np.float32:
        """Product of the scales, float32."""
        return np.float32(self.operands[0].scale * self.operands[1].scale)

    @property
    def accumulator_bound(self) -> int | None:
        """Largest |sum| any input can cause, None where the depth is not known."""
        if self.depth is None:
            return None
        return self.depth * self.operands[0].reach * self.operands[1].reach

    @property
    def proven(self) -> bool:
        """Whether float32 sums are exact for every input."""
        bound = self.accumulator_bound
        return bound is not None and bound < EXACT_FLOAT32


def read_products(
    graph: ir.Graph, layers: Iterable[ir.Node] = ()
) -> tuple[list[QuantizedProduct], dict[str, str]]:
    """Find the products of two quantized activations in a graph.

    Args:
        graph: the main graph of a QDQ model; those inside it are read too.
        layers: operators that are layers; a weight of one scale looks like an activation.
    Returns:
        the products, in topological order; and by name why others of two activations are none.
    """
    products, reasons = [], {}
    taken = set(layers)
    for name, node in named_operators(graph):
        if node.op_type != "MatMul" or node in taken:
            continue
        try:
            products.append(_read(node, name))
        except NotQuantizedError as reason:
            if is_activation(node.inputs[1]):
                reasons[name] = str(reason)
    return products, reasons


def _read(node: ir.Node, name: str) -> QuantizedProduct:
    operands = (_operand(node, 0), _operand(node, 1))
    check_product(operands[0].scale, operands[1].scale.reshape(1))
    product = QuantizedProduct(
        name=name, node=node, output=node.outputs[0], operands=operands, depth=_depth(node)
    )
    limit, kind = (1 << 53, "2^53") if product.wide else (INT32_MAX, "int32")
    if (product.accumulator_bound or 0) > limit:
        raise NotQuantizedError(f"its sums of {product.depth} products can leave {kind}")
    return product


def write_fake_product(scribe: Scribe, product: QuantizedProduct) -> None:
    """Write a product on integer-valued floats.

    The integers are counted from the zero point by a subtraction: a DequantizeLinear on both
    sides would be fused with the MatMul into an operator that is not exact everywhere.

    Args:
        scribe: writes the nodes.
        product: the product.
    """

    def centered(code: ir.Value, zero: Array) -> ir.Value:
        return scribe.op("Sub", scribe.op("Cast", code, to=ir.DataType.FLOAT), np.float32(zero))

    def multiply(a: _Part, b: _Part) -> ir.Value:
        return scribe.op("MatMul", centered(*a), centered(*b))

    _write_tail(scribe, product, _sums(scribe, product, multiply))


def write_integer_product(scribe: Scribe, product: QuantizedProduct) -> None:
    """Write a product as MatMulInteger on unsigned bytes.

    Args:
        scribe: writes the nodes.
        product: the product.
    """

    def multiply(a: _Part, b: _Part) -> ir.Value:
        (a_q, zero_a), (b_q, zero_b) = (_unsigned(scribe, *part) for part in (a, b))
        return scribe.op("MatMulInteger", a_q, b_q, np.uint8(zero_a), np.uint8(zero_b))

    _write_tail(scribe, product, _sums(scribe, product, multiply))


_Part = tuple[ir.Value, Array]
"""Codes of 8 bits, or half of codes of 16 bits as int32, and their zero point in its type."""


def _unsigned(scribe: Scribe, codes: ir.Value, zero: Array) -> tuple[ir.Value, int]:
    if zero.dtype == np.int32:
        return scribe.op("Cast", codes, to=ir.DataType.UINT8), int(zero)
    return unsigned_input(scribe, codes, zero)


def _parts(scribe: Scribe, operand: Operand) -> list[_Part]:
    if not operand.wide:
        return [(operand.x_q, operand.zero_point)]
    halves = split_codes(scribe, operand.x_q, operand.zero_point)
    return [(half, np.asarray(zero, np.int32)) for half, zero in halves]


def _sums(
    scribe: Scribe, product: QuantizedProduct, multiply: Callable[[_Part, _Part], ir.Value]
) -> ir.Value:
    """Write the sums of a product, of 16-bit codes as those of their halves: 256 * high + low."""
    first, second = (_parts(scribe, operand) for operand in product.operands)
    if not product.wide:
        return scribe.op("Cast", multiply(first[0], second[0]), to=ir.DataType.INT32)
    rows = [_joined(scribe, [multiply(a, b) for b in second]) for a in first]
    return _joined(scribe, rows)


def _joined(scribe: Scribe, halves: list[ir.Value]) -> ir.Value:
    if len(halves) > 1:
        return join_halves(scribe, *halves)
    return scribe.op("Cast", halves[0], to=ir.DataType.INT64)


def write_ascend_fake_product(scribe: Scribe, product: QuantizedProduct) -> None:
    """Write the fake-quant twin of a product in the Ascend dialect.

    Args:
        scribe: writes the nodes.
        product: the product.
    """
    counted = [
        reciprocal_input(scribe, product.name, operand.x_q, operand.scale, operand.zero_point)
        for operand in product.operands
    ]
    sums = scribe.op("MatMul", *counted)
    _write_tail(scribe, product, scribe.op("Cast", sums, to=ir.DataType.INT32))


def write_ascend_product(scribe: Scribe, product: QuantizedProduct) -> None:
    """Write a product in the Ascend dialect.

    Args:
        scribe: writes the nodes.
        product: the product.
    """
    quantized = [
        ascend_input(scribe, product.name, operand.x_q, operand.scale, operand.zero_point)
        for operand in product.operands
    ]
    scale = np.array([product.rescale], np.float32).view(np.uint32).astype(np.uint64)
    y = scribe.op("AscendDequant", scribe.op("MatMul", *quantized), scale, dtype=0)
    scribe.replace_output(y)


def _write_tail(scribe: Scribe, product: QuantizedProduct, sums: ir.Value) -> None:
    y = scribe.op("Cast", sums, to=ir.DataType.FLOAT)
    scribe.replace_output(scribe.op("Mul", y, product.rescale))


def _operand(node: ir.Node, index: int) -> Operand:
    try:
        x_q, scale, zero_point = read_activation(node, index)
    except NotQuantizedError as reason:
        which = "its second input" if index else "its input"
        raise NotQuantizedError(str(reason).replace("its input", which, 1)) from reason
    dequantize = dequantizer_of(node.inputs[index])[0]
    if dequantize is not None and not is_activation(node.inputs[index]):
        read_stored(dequantize)  # raises where the integers of a constant are not known
    return Operand(x_q, scale, zero_point)


def _depth(node: ir.Node) -> int | None:
    """Return how many products make one sum: the last axis of the left input."""
    left, right = (None if value is None else value.shape for value in node.inputs)
    sizes = [] if left is None else [left[-1]]
    if right is not None:
        sizes.append(right[-2] if len(right) > 1 else right[0])  # a vector has one axis
    return next((size for size in sizes if isinstance(size, int)), None)
