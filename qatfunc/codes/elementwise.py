"""Sums and products of two quantized values."""

from typing import NamedTuple

from torch import Tensor

from qatfunc.codes.grids import Output
from qatfunc.codes.rounding import UNLIMITED, Limits, centered, round_to
from qatfunc.params import QParams
from qatfunc.spec import ActivationSpec


class Factors(NamedTuple):
    """The factors of a sum's operands: natural_factors, or those of add_factors.fit_factors."""

    a: Tensor
    b: Tensor


def natural_factors(a: QParams, b: QParams, y: QParams) -> Factors:
    """Return the factors of a sum as its scales give them: scale_a / scale_y, scale_b / scale_y.

    Args:
        a: the first operand's scale.
        b: the second's.
        y: the sum's.
    Returns:
        float32, of the scales' shape.
    """
    return Factors(a.scale / y.scale, b.scale / y.scale)


def natural_multiplier(a: QParams, b: QParams, y: QParams) -> Tensor:
    """Return the multiplier of a product as its scales give it: scale_a * scale_b / scale_y.

    Args:
        a: the first operand's scale.
        b: the second's.
        y: the product's.
    Returns:
        float32, of the scales' shape.
    """
    return a.scale * b.scale / y.scale


def add(
    a: Tensor,
    b: Tensor,
    qparams: tuple[QParams, QParams],
    *,
    output: Output,
    spec: ActivationSpec,
    factors: Factors | None = None,
    limits: Limits = UNLIMITED,
) -> Tensor:
    """Add two quantized values and round the sum.

    n = clamp(round(n_a * factor_a + n_b * factor_b));  the result is n * scale

    Args:
        a: float32, n_a * scale_a.
        b: float32, n_b * scale_b, broadcastable with a.
        qparams: scale and zero point of a and of b.
        output: range and grid of the sum.
        spec: integer range of its codes.
        factors: those of a proof, by which every engine has this result; else natural_factors.
        limits: those of a ReLU after the sum.
    Returns:
        float32 n * scale.
    Gradient: that of a + b, with the gradients of ulq.ulq_quantize at the sum.
    Source: docs/semantics.md, 7b.
    """
    factor_a, factor_b = factors or natural_factors(*qparams, output.qparams)
    n_a, n_b = (centered(x, grid) for x, grid in zip((a, b), qparams, strict=True))
    return round_to(n_a * factor_a + n_b * factor_b, a + b, output, spec=spec, limits=limits)


def mul(
    a: Tensor,
    b: Tensor,
    qparams: tuple[QParams, QParams],
    *,
    output: Output,
    spec: ActivationSpec,
    multiplier: Tensor | None = None,
    limits: Limits = UNLIMITED,
) -> Tensor:
    """Multiply two quantized values and round the product.

    n = clamp(round(float32(n_a * n_b) * multiplier));  the result is n * scale

    Args:
        a: float32, n_a * scale_a.
        b: float32, n_b * scale_b, broadcastable with a.
        qparams: scale and zero point of a and of b.
        output: range and grid of the product.
        spec: integer range of its codes.
        multiplier: that of multipliers.fit_multiplier; else natural_multiplier.
        limits: those of a ReLU after the product.
    Returns:
        float32 n * scale.
    Gradient: that of a * b, with the gradients of ulq.ulq_quantize at the product.
    Source: docs/semantics.md, 7b.
    """
    if multiplier is None:
        multiplier = natural_multiplier(*qparams, output.qparams)
    n_a, n_b = (centered(x, grid) for x, grid in zip((a, b), qparams, strict=True))
    return round_to(n_a * n_b * multiplier, a * b, output, spec=spec, limits=limits)
