"""Activation functions of a quantized value."""

import torch
from torch import Tensor

from qatfunc.codes.functions import Activation
from qatfunc.codes.grids import Output
from qatfunc.codes.rounding import centered, round_to
from qatfunc.codes.tables import table_of
from qatfunc.params import QParams
from qatfunc.spec import ActivationSpec, IntSpec


def unary(
    x: Tensor,
    function: Activation,
    qparams: QParams,
    *,
    output: Output,
    spec: ActivationSpec,
    x_spec: IntSpec | None = None,
) -> Tensor:
    """Apply an activation function to a quantized value and round the result.

    n = clamp(round(f(x) / scale)), f and quotient in float64;  the result is n * scale

    The forward looks n up in a table of all codes, so it is the same on all devices.

    Args:
        x: float32, n_x * scale_x.
        function: the activation function.
        qparams: scale and zero point of x, one of each.
        output: range and grid of the result, with the scale of tables.fit_table where one was
            fitted.
        spec: integer range of its codes.
        x_spec: integer range of x's codes; None for that of the result.
    Returns:
        float32 n * scale, of x's shape.
    Gradient: that of f in float32, with the gradients of ulq.ulq_quantize at f(x).
    Source: docs/semantics.md, 7b.
    """
    first = (x_spec or spec).qmin - qparams.zero_point
    every = torch.arange((x_spec or spec).steps + 1, device=x.device) + first
    table = table_of(function, every * qparams.scale, output.qparams.scale)
    places = (centered(x, qparams) - first).long()
    return round_to(table[places], function(x), output, spec=spec)


def prelu(
    x: Tensor, weight: Tensor, qparams: QParams, *, output: Output, spec: ActivationSpec
) -> Tensor:
    """Apply PReLU to a quantized value and round the result.

    n = clamp(round(float32(float32(x * weight) / scale))), without the product where x >= 0

    Every operation is rounded once, so all engines agree.

    Args:
        x: float32 (N, C, ...), n_x * scale_x.
        weight: float32 (C,) or (1,), slopes of negative values.
        qparams: scale and zero point of x.
        output: range and grid of the result.
        spec: integer range of its codes.
    Returns:
        float32 n * scale, of x's shape.
    Gradient: that of PReLU, with the gradients of ulq.ulq_quantize at its result.
    Source: docs/semantics.md, 7b.
    """
    x_again = centered(x, qparams) * qparams.scale
    y = _prelu(x_again, weight.detach())
    return round_to(y / output.qparams.scale, _prelu(x, weight), output, spec=spec)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    """PReLU in float32 also under autocast, which computes F.prelu in lower precision."""
    slopes = weight.reshape(-1, *(1,) * (x.ndim - 2))
    return torch.where(x > 0, x, x * slopes)
