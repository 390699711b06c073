"""Explaining a conversion: what each layer became, why, how much work it is, and what is left."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bridge.export.constants import called
from bridge.export.costs import MEASURED_ON
from bridge.export.elementwise import OPERATORS
from bridge.export.errors import ConversionError
from bridge.export.files import read_model
from bridge.export.forms import FLOAT32, INT8, OF_RUNTIME
from bridge.export.layer import EXACT_FLOAT32
from bridge.export.layer_names import UniqueNames, module_path, scope_of_name
from bridge.export.multiplications import in_integers, multiplies, multiply_accumulates
from bridge.export.reader import FloatOperator, named_operators
from bridge.export.shapes import Sizes, infer_sizes, macs, macs_per_position
from bridge.export.summary import Conversion, LayerSummary, Proof
from bridge.layout import Listing

_INT32 = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExplanation:
    """One operator of a converted model.

    Args:
        name: module path.
        op: operator in the inter model.
        form: what it is in the deploy model, "float" if it was left.
        arithmetic: what multiplies in it: "int8", "float32" or "its runtime's".
        reason: why this form, or why it was left in float.
        unchained: why the layer and what follows are no QLinearConv; None if they are, or if
            there is none for its operator.
        macs: multiply-accumulates of one run, None if sizes are not known.
        macs_per_position: those for one pixel of the output of a Conv, one of the input of a
            ConvTranspose, one row of a matrix; None if not known.
        bound: largest |accumulator| any input can cause; None if not known, or left in float.
        int32_bits: bits between that bound and 2^31; negative beyond, infinite for 0, None also
            where the sums are 64 bits wide.
        float32_bits: bits between it and 2^24, below which float32 sums are proven exact.
        bias_bits: bits between the largest |int32 bias| and 2^31, None without a bias.
        proof: the thresholds that were compared for QLinearConv, None if none were.
        speed: the float layer's time over the form's, expected; None if not known.
        seconds: times of the forms that were tried on this machine, by name, fastest first.
    """

    name: str
    op: str
    form: str
    arithmetic: str
    reason: str
    unchained: str | None = None
    macs: int | None
    macs_per_position: int | None
    bound: int | None = None
    int32_bits: float | None = None
    float32_bits: float | None = None
    bias_bits: float | None = None
    proof: Proof | None = None
    speed: float | None = None
    seconds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A conversion, operator by operator.

    Args:
        target: what the deploy model is for.
        layers: every operator that multiplies and accumulates, left in float or not, in
            topological order: Conv, ConvTranspose, Gemm and MatMul, and Einsum, LSTM, attention and
            the like, which no conversion takes. Of operators of unknown domains nobody knows.
        measured_on: the processors that expected speeds are from.
    """

    target: str
    layers: tuple[LayerExplanation, ...]
    measured_on: str

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of all operators, None if those of one are not known."""
        return _sum(layer.macs for layer in self.layers)

    @property
    def int8_share(self) -> float | None:
        """Part of the multiply-accumulates that are of 8 bits; None if not known.

        Where the runtime chooses (target "qdq"), this is the part that it can compute so.
        """
        whole = self.macs
        part = _sum(one.macs for one in self.layers if one.arithmetic != FLOAT32)
        return None if not whole or part is None else part / whole

    @property
    def left_to_runtime(self) -> bool:
        """Whether a layer's arithmetic is what its runtime makes of it."""
        return any(layer.arithmetic == OF_RUNTIME for layer in self.layers)

    def __rich__(self) -> Listing:
        """Return what rich.print shows: bridge.report.explanation_table."""
        from bridge.report import explanation_table  # which reads what is defined here

        return explanation_table(self)

    def __str__(self) -> str:
        """Return bridge.report.explanation_table as text."""
        return str(self.__rich__())


def explain(
    conversion: Conversion, *, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Explanation:
    """Say of each operator what it became, why, how much work it is, and how near its limits.

    The reasons are those by which the conversion chose. Sizes are inferred from the model that was
    converted, which must still be there.

    Args:
        conversion: from convert_qat_model.
        input_shapes: the sizes of inputs that the model leaves open, by name; without them the
            multiply-accumulates of what depends on these are not known.
    Returns:
        one line an operator, and the totals; bridge.report.explanation_table prints them.
    Raises:
        TypeError: conversion is none.
        FileNotFoundError: the model that was converted is gone.
        ConversionError: it cannot be read any more, or has other operators.
        ValueError: input_shapes names no input, or contradicts the model.
    """
    if not isinstance(conversion, Conversion):
        raise TypeError(
            "explain: conversion must be what convert_qat_model returned, got "
            f"{type(conversion).__name__}"
        )
    model = read_model(conversion.source, follow_symlinks=conversion.follow_symlinks)
    sizes = infer_sizes(model, input_shapes)
    nodes = dict(named_operators(model.graph))
    rows: dict[ir.Node, LayerExplanation] = {}
    for layer in conversion.layers:
        if layer.op in OPERATORS:
            continue
        node = _node(nodes, layer.name, conversion)
        rows[node] = _layer(layer, node, sizes)
    for operator in conversion.left_in_float:
        node = _node(nodes, operator.name, conversion)
        rows[node] = _left_in_float(operator, node, sizes)
    names = UniqueNames(nodes)
    order = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for node in order:
        if node not in rows and multiplies(node):
            rows[node] = _other(node, names.give(_scope(node)), sizes)
    return Explanation(
        target=conversion.target,
        layers=tuple(rows[node] for node in order if node in rows),
        measured_on=MEASURED_ON,
    )


def _layer(layer: LayerSummary, node: ir.Node, sizes: Sizes) -> LayerExplanation:
    return LayerExplanation(
        name=layer.name,
        op=layer.op,
        form=layer.form,
        arithmetic=layer.arithmetic,
        reason=layer.reason,
        unchained=layer.unchained,
        macs=macs(node, sizes),
        macs_per_position=macs_per_position(node, sizes),
        bound=layer.bound,
        # Sums over 16 bits meet in int64.
        int32_bits=_bits(_INT32, layer.bound) if layer.bits == 8 else None,
        float32_bits=_bits(EXACT_FLOAT32, layer.bound),
        bias_bits=_bits(_INT32, layer.bias_reach),
        proof=layer.proof,
        speed=layer.speed,
        seconds=layer.seconds,
    )


def _left_in_float(operator: FloatOperator, node: ir.Node, sizes: Sizes) -> LayerExplanation:
    return LayerExplanation(
        name=operator.name,
        op=operator.op,
        form="float",
        arithmetic=FLOAT32,
        reason=operator.reason,
        macs=macs(node, sizes),
        macs_per_position=macs_per_position(node, sizes),
    )


def _other(node: ir.Node, name: str, sizes: Sizes) -> LayerExplanation:
    integers = in_integers(node)
    return LayerExplanation(
        name=name,
        op=node.op_type,
        form=node.op_type if integers else "float",
        arithmetic=INT8 if integers else FLOAT32,
        reason=f"{node.op_type} is no operator of layers, and stays as it is",
        macs=multiply_accumulates(node, sizes),
        macs_per_position=None,
    )


def _scope(node: ir.Node) -> str:
    return module_path(node) or scope_of_name(node.name or "") or called(node)


def _node(nodes: Mapping[str, ir.Node], name: str, conversion: Conversion) -> ir.Node:
    if name not in nodes:
        raise ConversionError(
            f"{conversion.source} has no layer {name!r}; it is not the model that was converted"
        )
    return nodes[name]


def _bits(limit: int, reach: int | None) -> float | None:
    if reach is None:
        return None
    return math.log2(limit / reach) if reach else math.inf


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)
