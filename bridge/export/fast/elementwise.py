"""Add and LeakyRelu on uint8 codes: reading them, and writing them in both models.

    a_q, b_q -> DequantizeLinear -> Add -> (Relu | Clip)* -> QuantizeLinear -> y_q
        becomes, in fake-quant,
    a_q, b_q -> DequantizeLinear(factors) -> Add -> QuantizeLinear(scale 1) -> (Clip) -> y_q
        and in deploy
    a_q, b_q -> QLinearAdd(factors, scale 1) -> (Clip) -> y_q

    x_q -> DequantizeLinear -> LeakyRelu -> (Relu | Clip)* -> QuantizeLinear -> y_q
        becomes, in deploy,
    x_q -> QLinearLeakyRelu -> (Clip) -> y_q

The factors of an Add make its last step the only one that rounds (qatfunc.codes.add_factors), so
both models agree on every processor. For QLinearLeakyRelu, ONNX Runtime computes a table of the 256
codes at load time, by the operations of the float nodes in the same order.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bridge.export.fast.operators import CODE_OPERATORS, MICROSOFT
from bridge.export.graph.builder import Builder
from bridge.export.graph.copies import Counterparts
from bridge.export.graph.names import UniqueNames, module_path, scope_of_name
from bridge.export.graph.operators import is_standard
from bridge.export.plan.forms import FLOAT32, INT8
from bridge.export.read.clamps import after_clamps
from bridge.export.read.products import Operand
from bridge.export.read.qdq import NotQuantizedError, find_uint8_qparams, read_per_tensor_input
from bridge.export.requantization.step_functions import Grid
from qatfunc.codes.add_factors import fit_factors

FLOAT = "float"
"""The form of an Add without factors: it stays in float."""

_LARGEST = np.iinfo(np.uint8).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """An Add or LeakyRelu on uint8 codes, up to the quantizer that reads it.

    Args:
        name: path of its module, or the node's name.
        node: the float Add or LeakyRelu.
        output: the uint8 codes of the result.
        operands: the quantized inputs.
        scale: of the result.
        grid: integer range and zero point of the result.
        code_range: smallest and largest code after the Relu and Clip nodes that follow.
        factors: of an Add's operands (qatfunc.codes.add_factors); None if there are none, and for
            a LeakyRelu.
    """

    name: str
    node: ir.Node
    output: ir.Value
    operands: tuple[Operand, ...]
    scale: np.float32
    grid: Grid
    code_range: tuple[int, int]
    factors: tuple[np.float32, np.float32] | None

    def on(self, copy: Counterparts) -> "Elementwise":
        """Return the same operator with the nodes and values of a copy of its model.

        Args:
            copy: maps nodes and values of the model to those of the copy.
        Returns:
            the operator in the copy.
        """
        return replace(
            self,
            node=copy.nodes[self.node],
            output=copy.values[self.output],
            operands=tuple(operand.on(copy) for operand in self.operands),
        )

    @property
    def form(self) -> str:
        """Its operator in the deploy model, or FLOAT."""
        if self.node.op_type == "Add" and self.factors is None:
            return FLOAT
        return CODE_OPERATORS[self.node.op_type]

    @property
    def arithmetic(self) -> str:
        """Arithmetic of that form, INT8 or FLOAT32."""
        return FLOAT32 if self.form == FLOAT else INT8

    @property
    def reason(self) -> str:
        """Why it takes that form."""
        if self.node.op_type != "Add":
            return "a lookup table of 256 codes"
        if self.factors is None:
            return "no factors near its scales give one result on every processor"
        return "factors that give one result on every processor"


def read_elementwise(graph: ir.Graph, *, taken: Iterable[str] = ()) -> list[Elementwise]:
    """Find each Add and LeakyRelu of dequantized uint8 values that one uint8 quantizer reads.

    Args:
        graph: the main graph; Relu and Clip may come before the quantizer.
        taken: names of other operators, which these must not have.
    Returns:
        the operators in topological order, with unique names.
    """
    found: list[Elementwise] = []
    names = UniqueNames(taken)
    for node in graph:
        if node.op_type in CODE_OPERATORS and is_standard(node):
            one = _read(node, _name(node))
            if one is not None:
                found.append(replace(one, name=names.give(one.name)))
    return found


def write_fake_elementwise(builder: Builder, one: Elementwise) -> None:
    """Write the fake-quant form of an Add: with its factors, only the quantizer rounds.

    Args:
        builder: writes the nodes.
        one: the operator; without factors, and for a LeakyRelu, nothing is written.
    """
    if one.factors is None:
        return
    a, b = (
        builder.op("DequantizeLinear", operand.x_q, factor, operand.zero_point)
        for operand, factor in zip(one.operands, one.factors, strict=True)
    )
    zero = np.uint8(one.grid.zero_point)
    _replace(
        builder, one, builder.op("QuantizeLinear", builder.op("Add", a, b), np.float32(1), zero)
    )


def write_integer_elementwise(builder: Builder, one: Elementwise) -> None:
    """Write an Add as QLinearAdd, a LeakyRelu as QLinearLeakyRelu.

    Args:
        builder: writes the nodes.
        one: the operator; for an Add without factors nothing is written.
    """
    if one.form == FLOAT:
        return
    scales = one.factors or [operand.scale for operand in one.operands]
    operands = [
        value
        for operand, scale in zip(one.operands, scales, strict=True)
        for value in (operand.x_q, scale, operand.zero_point)
    ]
    last = one.scale if one.factors is None else np.float32(1), np.uint8(one.grid.zero_point)
    attributes = {name: attribute.value for name, attribute in one.node.attributes.items()}
    _replace(builder, one, builder.op(one.form, *operands, *last, domain=MICROSOFT, **attributes))


def _read(node: ir.Node, name: str) -> Elementwise | None:
    try:
        operands = tuple(_operand(node, i) for i in range(len(node.inputs)))
    except NotQuantizedError:
        return None
    value, low, high = after_clamps(node.outputs[0])
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output() or users[0].op_type != "QuantizeLinear":
        return None
    qparams = find_uint8_qparams(users[0])
    if qparams is None:
        return None
    scale, zero_y = qparams
    grid = Grid(zero_point=zero_y, qmin=0, qmax=_LARGEST)
    with np.errstate(over="ignore"):
        ends = grid.codes(np.array([low, high], np.float32) / scale)
    factors = None
    if node.op_type == "Add":
        a, b = operands
        natural = float(a.scale) / float(scale), float(b.scale) / float(scale)
        factors = fit_factors(natural, (int(a.zero_point), int(b.zero_point)), zero_y)
    return Elementwise(
        name=name,
        node=node,
        output=users[0].outputs[0],
        operands=operands,
        scale=scale,
        grid=grid,
        code_range=(int(ends[0]), int(ends[1])),
        factors=factors,
    )


def _operand(node: ir.Node, index: int) -> Operand:
    operand = Operand(*read_per_tensor_input(node, index))
    if operand.zero_point.dtype != np.uint8:
        raise NotQuantizedError(f"its operand is {operand.zero_point.dtype}, not uint8")
    return operand


def _replace(builder: Builder, one: Elementwise, codes: ir.Value) -> None:
    low, high = one.code_range
    if low > 0 or high < _LARGEST:
        codes = builder.op("Clip", codes, np.uint8(low), np.uint8(high))
    builder.replace(one.output, codes, ir.DataType.UINT8)


def _name(node: ir.Node) -> str:
    name = module_path(node) or scope_of_name(node.name or "") or node.name
    return name or node.outputs[0].name or node.op_type
