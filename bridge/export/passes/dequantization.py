"""DequantizeLinear as plain arithmetic, which runtimes do not fuse with other operators.

    q -> DequantizeLinear <scale, zero_point> -> y
      =>
    q -> Cast float32 -> (Reshape to blocks) -> Sub zero_point -> Mul scale -> (Reshape) -> y

Both are equal in every bit: for integers and 8-bit floats, per tensor, per axis and in blocks.
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
"""Data types that ONNX Runtime casts to float."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantization:
    """A DequantizeLinear whose scale and zero point are constant.

    Args:
        node: the DequantizeLinear.
        codes: its first input.
        scale: float32, broadcasts to the codes, or to `blocks`.
        zero_point: float32, of the same shape.
        blocks: shape of the codes with the blocked axis split in two, None without blocks.
        dtype: of its output.
    """

    node: ir.Node
    codes: ir.Value
    scale: Array
    zero_point: Array
    blocks: tuple[int, ...] | None
    dtype: ir.DataType

    def values(self, codes: Array) -> Array:
        """Compute the node for constant codes.

        Args:
            codes: integers or 8-bit floats, of the shape of the node's input.
        Returns:
            an array of `dtype`, of the same shape.
        """
        floats = codes.astype(np.float32)
        with np.errstate(over="ignore"):
            scaled = (floats.reshape(self.blocks or codes.shape) - self.zero_point) * self.scale
            return scaled.reshape(codes.shape).astype(self.dtype.numpy())

    def write(self, codes: ir.Value) -> ir.Value:
        """Write the arithmetic as nodes before the DequantizeLinear.

        Args:
            codes: value of the same shape and data type as the node's input.
        Returns:
            the output of the last node, equal to that of the DequantizeLinear.
        """
        graph, made = graph_of(self.node), self.node.outputs[0]
        name = made.name or ""

        def op(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            node = ir.node(op_type, inputs, attributes, name=f"{name}/{op_type}")
            node.outputs[0].name = f"{node.name}_output"
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            graph.insert_before(self.node, node)
            return node.outputs[0]

        def initializer(kind: str, array: Array) -> ir.Value:
            return add_initializer(graph, f"{name}_{kind}", array)

        value = op("Cast", codes, to=ir.DataType.FLOAT)
        if self.blocks is not None:
            value = op("Reshape", value, initializer("blocks", np.array(self.blocks, np.int64)))
        if self.zero_point.any():
            value = op("Sub", value, initializer("zero_point", self.zero_point))
        value = op("Mul", value, initializer("scale", self.scale))
        if self.blocks is not None:
            whole = _shape(self.codes) or ()
            value = op("Reshape", value, initializer("whole", np.array(whole, np.int64)))
        if self.dtype != ir.DataType.FLOAT:
            value = op("Cast", value, to=self.dtype)
        value.shape, value.type = made.shape or codes.shape, ir.TensorType(self.dtype)
        return value


def read_dequantization(node: ir.Node) -> Dequantization | None:
    """Read a DequantizeLinear.

    Args:
        node: any node.
    Returns:
        its arithmetic; None for other operators, if scale or zero point is not constant, if ONNX
        Runtime cannot cast the data types, or if the shapes do not fit or are not known.
    """
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    if codes is None:
        return None
    scale = constant(node.inputs[1])
    given = zero_point_input(node)
    zero_point = constant(given)
    dtype = None if scale is None else _output_dtype(node, scale)
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


def _output_dtype(node: ir.Node, scale: Array) -> ir.DataType | None:
    """Return the data type of a DequantizeLinear's output."""
    given = int_attribute(node, "output_dtype", 0)
    return ir.DataType(given) if given else ir.DataType.from_numpy(scale.dtype)


def _is_castable(codes: ir.Value, zero_point: Array | None) -> bool:
    """Whether ONNX Runtime can cast codes to float, as far as their data type is known."""
    stored = constant(codes)
    known = zero_point if stored is None else stored
    dtype = codes.dtype if known is None else ir.DataType.from_numpy(known.dtype)
    return dtype is None or dtype in _CODES


def _shape(codes: ir.Value) -> tuple[int, ...] | None:
    """Return the shape of codes, with 0 for unknown dimensions; None if the rank is unknown."""
    stored, producer = constant(codes), codes.producer()
    if stored is not None:
        return stored.shape
    shape = codes.shape
    if shape is None and producer is not None and producer.op_type == "QuantizeLinear":
        return None if producer.inputs[0] is None else _shape(producer.inputs[0])
    return None if shape is None else tuple(s if isinstance(s, int) else 0 for s in shape)


def _spread(node: ir.Node, values: Array, codes: tuple[int, ...] | None) -> Array:
    """Repeat a value per block for every element if the last block is incomplete."""
    axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)
    ranks = values.ndim, 0 if codes is None else len(codes)
    if not block or codes is None or ranks[0] != ranks[1] or not -ranks[0] <= axis < ranks[0]:
        return values
    if codes[axis] % block == 0:
        return values
    return np.repeat(values, block, axis).take(range(codes[axis]), axis)


def _shapes(
    node: ir.Node, scale: tuple[int, ...], codes: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
    """Return the shape in which a scale broadcasts to codes, and the shape of their blocks."""
    size, block = int(np.prod(scale)), int_attribute(node, "block_size", 0)
    axis = int_attribute(node, "axis", 1)
    if size == 1 and not block:
        return (), None
    if codes is None or not -len(codes) <= axis < len(codes):
        return None
    axis %= len(codes)
    if scale == codes:
        return scale, None
    if not block:
        fits = codes[axis] in (size, 0)
        return ((1,) * axis + (size,) + (1,) * (len(codes) - axis - 1), None) if fits else None
    wanted = (*codes[:axis], codes[axis] // block, *codes[axis + 1 :])
    if codes[axis] % block or scale != wanted:
        return None
    blocks = (*codes[:axis], codes[axis] // block, block, *codes[axis + 1 :])
    return (*scale[: axis + 1], 1, *scale[axis + 1 :]), blocks
