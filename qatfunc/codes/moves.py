"""Codes that move: values of one range pass through MaxPool, Concat and reshapes unchanged.

Where inputs and output share a scale and a zero point (unified scales), torch's own operators on
n * scale move the codes: largest, copy, reorder, pad with 0. Only a value that comes with another
range has to be rounded again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from qatfunc.codes.grids import Output
from qatfunc.codes.rounding import round_to
from qatfunc.spec import ActivationSpec


def requantize(x: Tensor, *, output: Output, spec: ActivationSpec) -> Tensor:
    """Round a value to the codes of another range.

    n = clamp(round(x / scale));  the result is n * scale, of the same bits for an x of this grid

    Args:
        x: float32, quantized or not.
        output: range and grid of the result.
        spec: integer range of its codes.
    Returns:
        float32 n * scale, of x's shape.
    Gradient: that of ulq.ulq_quantize.
    Source: docs/semantics.md, 1 and 3.
    """
    return round_to(x / output.qparams.scale, x, output, spec=spec)


def concat(
    values: Sequence[Tensor],
    *,
    dim: int,
    output: Output | None = None,
    spec: ActivationSpec | None = None,
) -> Tensor:
    """Concatenate quantized values.

    Args:
        values: float32, all of one grid; or of several, with an output.
        dim: axis to concatenate along.
        output: the range that values of several grids are rounded to; None where they share one.
        spec: integer range of the output's codes.
    Returns:
        float32 n * scale.
    Raises:
        ValueError: only one of output and spec is given.
    Gradient: that of the concatenation, and of requantize where there is an output.
    Source: docs/semantics.md, 7b.
    """
    if (output is None) != (spec is None):
        raise ValueError("output and spec must be given together")
    joined = torch.cat(list(values), dim)
    return (
        joined if output is None or spec is None else requantize(joined, output=output, spec=spec)
    )
