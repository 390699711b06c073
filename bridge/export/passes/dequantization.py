"""What a DequantizeLinear computes, in plain arithmetic that no runtime fuses.

    DequantizeLinear(q, scale, zero_point)  =  (float32(q) - zero_point) * scale

in every bit, of integers and of 8-bit floats, along an axis and in blocks.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bridge.export.graph.builder import add_initializer, graph_of
from bridge.export.graph.constants import Array, constant
from bridge.export.graph.operators import int_attribute, zero_point_input

_CODES = {
    ir.DataType[name]
    for name in (
        *("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16", "INT32"),
        *("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"),
    )
}
"""What ONNX Runtime casts to float."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantization:
    """A DequantizeLinear whose scale and zero point are constant.

    Args:
        node: the DequantizeLinear.
        codes: what it dequantizes.
        scale: float32, in a shape that broadcasts to that of the codes, or of their blocks.
        zero_point: float32, likewise.
        blocks: the shape of the codes with the axis of the blocks as two, None without blocks.
        dtype: what it dequantizes to.
    """

    node: ir.Node
    codes: ir.Value
    scale: Array
    zero_point: Array
    blocks: tuple[int, ...] | None
    dtype: ir.DataType

    def values(self, codes: Array) -> Array:
        """Return what the node computes of constants.

        Args:
            codes: as the node takes them.
        Returns:
            an array of `dtype`.
        """
        floats = codes.astype(np.float32)
        with np.errstate(over="ignore"):
            scaled = (floats.reshape(self.blocks or codes.shape) - self.zero_point) * self.scale
            return scaled.reshape(codes.shape).astype(self.dtype.numpy())

    def write(self, codes: ir.Value) -> ir.Value:
        """Write the arithmetic as nodes before the DequantizeLinear.

        Args:
            codes: as the node takes them.
        Returns:
            what the node computes.
        """
        graph, made = graph_of(self.node), self.node.outputs[0]
        name = made.name or ""

        def op(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            node = ir.node(op_type, inputs, attributes, name=f"{name}/{op_type}")
            node.outputs[0].name = f"{node.name}_output"
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            graph.insert_before(self.node, node)
            return node.outputs[0]

        def number(kind: str, array: Array) -> ir.Value:
            return add_initializer(graph, f"{name}_{kind}", array)

        value = op("Cast", codes, to=ir.DataType.FLOAT)
        if self.blocks is not None:
            value = op("Reshape", value, number("blocks", np.array(self.blocks, np.int64)))
        if self.zero_point.any():
            value = op("Sub", value, number("zero_point", self.zero_point))
        value = op("Mul", value, number("scale", self.scale))
        if self.blocks is not None:
            whole = _shape(self.codes) or ()
            value = op("Reshape", value, number("whole", np.array(whole, np.int64)))
        if self.dtype != ir.DataType.FLOAT:
            value = op("Cast", value, to=self.dtype)
        value.shape, value.type = made.shape or codes.shape, ir.TensorType(self.dtype)
        return value


def read_dequantization(node: ir.Node) -> Dequantization | None:
    """Read a DequantizeLinear.

    Args:
        node: any node.
    Returns:
        what it computes; None if it is another operator, its scale or zero point is not constant,
        ONNX Runtime cannot cast what it takes or makes, or its codes have no shape that fits.
    """
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    if codes is None:
        return None
    scale = constant(node.inputs[1])
    given = zero_point_input(node)
    zero_point = constant(given)
    dtype = None if scale is None else _made(node, scale)
    if scale is None or dtype not in _FLOATS or (given is not None and zero_point is None):
        return None
    zeros = np.zeros_like(scale) if zero_point is None else zero_point
    if zeros.size != scale.size or not _is_castable(codes, zero_point):
        return None
    shape = _shape(codes)
    scale, zeros = (_spread(node, one.reshape(scale.shape), shape) for one in (scale, zeros))
    shapes = _shapes(node, scale.shape, shape)
    if shapes is None:
        return None
    return Dequantization(
        node=node,
        codes=codes,
        scale=scale.astype(np.float32).reshape(shapes[0]),
        zero_point=zeros.astype(np.float32).reshape(shapes[0]),
        blocks=shapes[1],
        dtype=dtype,
    )


def _made(node: ir.Node, scale: Array) -> ir.DataType | None:
    """Return the type that a DequantizeLinear makes."""
    given = int_attribute(node, "output_dtype", 0)
    return ir.DataType(given) if given else ir.DataType.from_numpy(scale.dtype)


def _is_castable(codes: ir.Value, zero_point: Array | None) -> bool:
    """Whether codes have a type that is castable, as far as the file says."""
    stored = constant(codes)
    known = zero_point if stored is None else stored
    dtype = codes.dtype if known is None else ir.DataType.from_numpy(known.dtype)
    return dtype is None or dtype in _CODES


def _shape(codes: ir.Value) -> tuple[int, ...] | None:
    """Return the shape of codes; sizes that are not known are 0, None if not even the rank is."""
    stored, producer = constant(codes), codes.producer()
    if stored is not None:
        return stored.shape
    shape = codes.shape
    if shape is None and producer is not None and producer.op_type == "QuantizeLinear":
        return None if producer.inputs[0] is None else _shape(producer.inputs[0])
    return None if shape is None else tuple(s if isinstance(s, int) else 0 for s in shape)


def _spread(node: ir.Node, numbers: Array, codes: tuple[int, ...] | None) -> Array:
    """Give every element a number of its own where the last of the blocks ends early."""
    axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)
    ranks = numbers.ndim, 0 if codes is None else len(codes)
    if not block or codes is None or ranks[0] != ranks[1] or not -ranks[0] <= axis < ranks[0]:
        return numbers
    if codes[axis] % block == 0:
        return numbers
    return np.repeat(numbers, block, axis).take(range(codes[axis]), axis)


def _shapes(
    node: ir.Node, numbers: tuple[int, ...], codes: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
    """Return the shape in which numbers broadcast to codes, and that of the codes' blocks."""
    size, block = int(np.prod(numbers)), int_attribute(node, "block_size", 0)
    axis = int_attribute(node, "axis", 1)
    if size == 1 and not block:
        return (), None
    if codes is None or not -len(codes) <= axis < len(codes):
        return None
    axis %= len(codes)
    if numbers == codes:
        return numbers, None
    if not block:
        fits = codes[axis] in (size, 0)
        return ((1,) * axis + (size,) + (1,) * (len(codes) - axis - 1), None) if fits else None
    wanted = (*codes[:axis], codes[axis] // block, *codes[axis + 1 :])
    if codes[axis] % block or numbers != wanted:
        return None
    blocks = (*codes[:axis], codes[axis] // block, block, *codes[axis + 1 :])
    return (*numbers[: axis + 1], 1, *numbers[axis + 1 :]), blocks
