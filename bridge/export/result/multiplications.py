"""Multiply-accumulates of all operators that have some, quantizable or not."""

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from bridge.export.graph.operators import STANDARD_DOMAINS
from bridge.export.graph.shapes import Sizes, macs
from bridge.export.read.layers import OPERATORS

_MICROSOFT = "com.microsoft"
_ML = "ai.onnx.ml"

# Parts of operator names. Operators with none of them are elementwise, reductions or copies.
_PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention", "LSTM", "GRU", "RNN", "Einsum", "MoE", "FFT")
_TRANSFORMS = ("DFT", "STFT", "Det", "Rfft", "Irfft", "Inverse")
_OF_ML = ("LinearClassifier", "LinearRegressor", "SVMClassifier", "SVMRegressor")


def multiplies(node: ir.Node) -> bool:
    """Whether an operator multiplies and accumulates, or may do so.

    Args:
        node: any node.
    Returns:
        True for convolutions, matrix products, recurrent layers, attention and the like, and for
        operators of unknown domains; False for elementwise operators.
    """
    if node.domain in (*STANDARD_DOMAINS, _MICROSOFT):
        return any(part in node.op_type for part in _PRODUCTS) or node.op_type in _TRANSFORMS
    return node.op_type in _OF_ML if node.domain == _ML else True


def in_integers(node: ir.Node) -> bool:
    """Whether an operator of the source file multiplies 8-bit integers already.

    Args:
        node: one that multiplies.
    Returns:
        True for the integer operators of ONNX and of ONNX Runtime.
    """
    return node.op_type.startswith(("QLinear", "DynamicQuantize")) or "Integer" in node.op_type


def multiply_accumulates(node: ir.Node, sizes: Sizes) -> int | None:
    """Count the multiply-accumulates of one run of an operator.

    Args:
        node: one that multiplies.
        sizes: shapes of the values of the main graph, by name.
    Returns:
        the number; None if it is not known, as in a loop.
    """
    if node.domain not in (*STANDARD_DOMAINS, _MICROSOFT):
        return None
    if node.op_type == "Attention":
        return (_attention if node.domain in STANDARD_DOMAINS else _joined_attention)(node, sizes)
    count = _COUNTS.get(node.op_type)
    return None if count is None else count(node, sizes)


def _size(node: ir.Node, index: int, sizes: Sizes) -> tuple[int, ...] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else sizes.get(value.name or "")


def _integer(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _convolution(weight: int) -> Callable[[ir.Node, Sizes], int | None]:
    def count(node: ir.Node, sizes: Sizes) -> int | None:
        kernel, y = _size(node, weight, sizes), sizes.get(node.outputs[0].name or "")
        if kernel is None or y is None:
            return None
        return math.prod(kernel) * math.prod(y[:1] + y[2:])

    return count


def _product(right: int) -> Callable[[ir.Node, Sizes], int | None]:
    def count(node: ir.Node, sizes: Sizes) -> int | None:
        a, y = _size(node, 0, sizes), sizes.get(node.outputs[0].name or "")
        if a is None or y is None or _size(node, right, sizes) is None:
            return None
        transposed = _integer(node, "transA") and len(a) > 1
        return math.prod(y) * (a[-2] if transposed else a[-1])

    return count


def _recurrent(node: ir.Node, sizes: Sizes) -> int | None:
    """Count the products with W and R in all steps; X is (steps, batch, inputs) or batch first."""
    x, w, r = (_size(node, i, sizes) for i in range(3))
    if x is None or w is None or r is None:
        return None
    return math.prod(x[:2]) * (math.prod(w) + math.prod(r))


def _einsum(node: ir.Node, sizes: Sizes) -> int | None:
    """Count a contraction that joins the operands one by one, from left to right."""
    shapes = [_size(node, i, sizes) for i in range(len(node.inputs))]
    if any(shape is None for shape in shapes):
        return None
    left, arrow, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    terms = left.split(",")
    lengths: dict[str, int] = {}
    labels: list[set[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        names = _labels(term, len(shape or ()))
        labels.append(set(names))
        for name, length in zip(names, shape or (), strict=True):
            lengths[name] = max(length, lengths.get(name, 1))
    if arrow:
        kept = set(_labels(result, 0)) | {name for name in lengths if name.isdigit()}
    else:  # labels of one operand only
        kept = {name for name in lengths if sum(name in one for one in labels) == 1}
    total, joined = 0, labels[0]
    for i, added in enumerate(labels[1:], start=1):
        joined = joined | added
        total += math.prod(lengths[name] for name in joined)
        joined = joined & kept.union(*labels[i + 1 :])
    return total


def _labels(term: str, rank: int) -> list[str]:
    """List the labels of an operand; axes of an ellipsis are numbered from the last."""
    before, dots, after = term.partition("...")
    extra = rank - len(before) - len(after) if dots else 0
    return [*before, *(str(i) for i in reversed(range(max(extra, 0)))), *after]


def _attention(node: ir.Node, sizes: Sizes) -> int | None:
    """Count Q K^T and the product with V; heads are an axis of their own, or in the last axis."""
    q, k, v = (_size(node, i, sizes) for i in range(3))
    if q is None or k is None or v is None:
        return None
    if len(q) == 3:
        heads = _integer(node, "q_num_heads" if node.domain in STANDARD_DOMAINS else "num_heads")
        groups = _integer(node, "kv_num_heads", heads)
        if len(k) != 3 or len(v) != 3 or not heads or not groups:
            return None
        q = (q[0], heads, q[1], q[2] // heads)
        k, v = ((s[0], groups, s[1], s[2] // groups) for s in (k, v))
    if not len(q) == len(k) == len(v) == 4:
        return None
    past, first = 0, 4 if node.domain in STANDARD_DOMAINS else 6
    if len(node.inputs) > first and node.inputs[first] is not None:
        before = _size(node, first, sizes)
        if before is None:
            return None
        past = before[2]
    return math.prod(q[:3]) * (k[2] + past) * (q[3] + v[3])


def _joined_attention(node: ir.Node, sizes: Sizes) -> int | None:
    """Count com.microsoft's Attention, which includes the projections to Q, K and V."""
    x, weight = _size(node, 0, sizes), _size(node, 1, sizes)
    past = len(node.inputs) > 4 and node.inputs[4] is not None
    if x is None or weight is None or past or "qkv_hidden_sizes" in node.attributes:
        return None
    batch, length, _ = x
    return batch * length * math.prod(weight) + 2 * batch * length**2 * (weight[1] // 3)


def _few_bits(node: ir.Node, sizes: Sizes) -> int | None:
    x = _size(node, 0, sizes)
    return None if x is None else math.prod(x[:-1]) * _integer(node, "K") * _integer(node, "N")


_COUNTS: Mapping[str, Callable[[ir.Node, Sizes], int | None]] = {
    **dict.fromkeys(OPERATORS, macs),
    **dict.fromkeys(("ConvInteger", "DeformConv", "FusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    **dict.fromkeys(("MatMulInteger", "FusedMatMul", "FusedGemm"), _product(1)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _product(1)),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), _product(3)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "MatMulNBits": _few_bits,
    "MultiHeadAttention": _attention,
}
