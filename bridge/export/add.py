"""Sums of two 8-bit values that are rounded to 8 bits: reading them, and their forms.

Read is DequantizeLinear, DequantizeLinear -> Add -> (Relu | Clip)* -> QuantizeLinear, all of uint8.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bridge.export.add_factors import fit_factors
from bridge.export.layer_names import module_path, scope_of_name
from bridge.export.limits import behind_limits
from bridge.export.pairs import NotQuantizedError, read_activation
from bridge.export.product import Operand
from bridge.export.scribe import Scribe
from bridge.export.steps import Grid
from bridge.export.unsigned import unsigned_numbers

MICROSOFT = "com.microsoft"
"""Domain of QLinearAdd."""

QLINEAR_ADD, FLOAT_ADD = "QLinearAdd", "float"
"""The forms of a sum."""

_CODES = np.iinfo(np.uint8).max


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedAdd:
    """What a sum of two uint8 values computes, up to the quantizer that reads it.

    Args:
        name: path of the module it is in, or the node's name.
        node: the float Add.
        output: the uint8 codes of the sum.
        operands: a and b.
        grid: the codes' integers.
        factors: what the operands' codes are multiplied by, or None if no factors were found.
        code_range: the smallest and the largest code that the activation behind it leaves.
    """

    name: str
    node: ir.Node
    output: ir.Value
    operands: tuple[Operand, Operand]
    grid: Grid
    factors: tuple[np.float32, np.float32] | None
    code_range: tuple[int, int]

    @property
    def form(self) -> str:
        """What it becomes in a deploy model."""
        return FLOAT_ADD if self.factors is None else QLINEAR_ADD


def read_adds(graph: ir.Graph, *, taken: Iterable[str] = ()) -> list[QuantizedAdd]:
    """Find the sums of two dequantized uint8 values that one uint8 quantizer reads.

    Args:
        graph: the main graph; a Relu or Clip may stand before the quantizer.
        taken: names that no sum may have.
    Returns:
        the sums, in topological order, each with a name of its own.
    """
    adds: list[QuantizedAdd] = []
    names = set(taken)
    for node in graph:
        if node.op_type == "Add" and node.domain in ("", "ai.onnx"):
            add = _read(node, _unique(node, names))
            if add is not None:
                names.add(add.name)
                adds.append(add)
    return adds


def write_fake_add(scribe: Scribe, add: QuantizedAdd) -> None:
    """Write a sum in float, of which nothing is rounded before the quantizer.

    Args:
        scribe: writes the nodes.
        add: the sum.
    """
    a, b = (
        scribe.op("DequantizeLinear", operand.x_q, factor, operand.zero_point)
        for operand, factor in zip(add.operands, add.factors or (), strict=True)
    )
    zero = np.uint8(add.grid.zero_point)
    _replace(scribe, add, scribe.op("QuantizeLinear", scribe.op("Add", a, b), np.float32(1), zero))


def write_integer_add(scribe: Scribe, add: QuantizedAdd) -> None:
    """Write a sum as QLinearAdd.

    Args:
        scribe: writes the nodes.
        add: the sum.
    """
    operands = [
        value
        for operand, factor in zip(add.operands, add.factors or (), strict=True)
        for value in (operand.x_q, factor, operand.zero_point)
    ]
    last = np.float32(1), np.uint8(add.grid.zero_point)
    _replace(scribe, add, scribe.op(QLINEAR_ADD, *operands, *last, domain=MICROSOFT))


def _read(node: ir.Node, name: str) -> QuantizedAdd | None:
    try:
        operands = _operand(node, 0, name), _operand(node, 1, name)
    except NotQuantizedError:
        return None
    value, low, high = behind_limits(node.outputs[0])
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output() or users[0].op_type != "QuantizeLinear":
        return None
    numbers = unsigned_numbers(users[0])
    if numbers is None:
        return None
    scale, zero_y = numbers
    grid = Grid(zero_point=zero_y, qmin=0, qmax=_CODES)
    with np.errstate(over="ignore"):
        ends = grid.codes(np.array([low, high], np.float32) / scale)
    first, second = (float(operand.scale) / float(scale) for operand in operands)
    zeros = int(operands[0].zero_point), int(operands[1].zero_point)
    return QuantizedAdd(
        name=name,
        node=node,
        output=users[0].outputs[0],
        operands=operands,
        grid=grid,
        factors=fit_factors((first, second), zeros, zero_y),
        code_range=(int(ends[0]), int(ends[1])),
    )


def _operand(node: ir.Node, index: int, name: str) -> Operand:
    operand = Operand(*read_activation(node, index, name))
    if operand.zero_point.dtype != np.uint8:
        raise NotQuantizedError(f"its operand is {operand.zero_point.dtype}, not uint8")
    return operand


def _replace(scribe: Scribe, add: QuantizedAdd, codes: ir.Value) -> None:
    low, high = add.code_range
    if low > 0 or high < _CODES:
        codes = scribe.op("Clip", codes, np.uint8(low), np.uint8(high))
    scribe.replace(add.output, codes, ir.DataType.UINT8)


def _unique(node: ir.Node, taken: set[str]) -> str:
    name = module_path(node) or scope_of_name(node.name or "") or node.name
    name = name or node.outputs[0].name or node.op_type
    return next(n for n in _numbered(name) if n not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    count = 2
    while True:
        yield f"{name}#{count}"
        count += 1
