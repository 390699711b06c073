"""Explaining a conversion: the form of each operator, why, its MACs and its headroom."""

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from bridge.export.fast.operators import CODE_OPERATORS
from bridge.export.graph.constants import name_of
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.names import UniqueNames, module_path, scope_of_name
from bridge.export.graph.shapes import Sizes, infer_sizes, macs, macs_per_position
from bridge.export.normalize.model import read_model
from bridge.export.plan.costs import MEASURED_ON
from bridge.export.plan.forms import FLOAT32, INT8
from bridge.export.read.layers import FloatOperator, named_operators
from bridge.export.result.conversion import Conversion, LayerSummary
from bridge.export.result.explanation import Explanation, LayerExplanation
from bridge.export.result.multiplications import in_integers, multiplies, multiply_accumulates
from qatfunc.limits import EXACT_FLOAT32, INT32_MAX


def explain(
    conversion: Conversion, *, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> Explanation:
    """Explain each operator of a conversion: its form, why, its MACs and its numeric headroom.

    The reasons are those of the conversion. Sizes are inferred from the source file, which must
    still exist.

    Args:
        conversion: from convert_qat_model.
        input_shapes: shapes of inputs with dynamic axes, by name; without them, MACs that depend
            on these are not known.
    Returns:
        the explanation of each operator, and totals.
    Raises:
        TypeError: conversion is not what convert_qat_model returned.
        FileNotFoundError: the source file no longer exists.
        ConversionError: the source file cannot be read, or has other operators than before.
        ValueError: input_shapes has a name that is no input, or contradicts the model.
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
        if layer.op in CODE_OPERATORS:
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
        # Accumulators of 16-bit inputs are int64.
        int32_bits=_bits(INT32_MAX + 1, layer.bound) if layer.bits == 8 else None,
        float32_bits=_bits(EXACT_FLOAT32, layer.bound),
        bias_bits=_bits(INT32_MAX + 1, layer.bias_reach),
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
        reason=f"{node.op_type} is not an operator that is quantized, and stays as it is",
        macs=multiply_accumulates(node, sizes),
        macs_per_position=None,
    )


def _scope(node: ir.Node) -> str:
    return module_path(node) or scope_of_name(node.name or "") or name_of(node)


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
