"""ULQ's gradients of x and of the range in few passes over the data (see qatfunc.ulq).

With n the integers of x and g the gradient of x' = n * scale:

    x:        g inside the range, 0 outside
    clip.max: E + sum of g above;   clip.min: sum of g below - E
    E = sum(g * (n - clamp(x / scale, low, high))) / steps + e_max * sum above + e_min * sum below

where e_end = (round(end / scale) - end / scale) / steps. Both sums are over the few elements
outside the range, whose integers are `high` above it and `low` below it; so sum(g) and sum(g * n)
over these elements determine them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.fused.grid import Grid, clamped_
from qatfunc.numerics.arithmetic import arithmetic_of, next_float32
from qatfunc.numerics.concrete import Number, number
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec


class Quantized(NamedTuple):
    """An input, its integers and its rounding errors, as backward needs them."""

    x: Tensor
    clip: Clip
    grid: Grid
    steps: int
    """high - low of the grid."""
    integers: Tensor
    """n, relative to the zero point."""
    rounding: Tensor
    """n - x / scale inside the range, 0 outside."""


def quantize_again(x: Tensor, clip: Clip, grid: Grid, spec: ActivationSpec) -> Quantized:
    """Quantize an input to the same integers as the forward did.

    Args:
        x: float32, any shape.
        clip: its range.
        grid: the range's.
        spec: width and symmetry.
    Returns:
        the integers and the rounding errors.
    """
    ratio = torch.div(x, grid.scale)
    integers = ratio.round()
    if grid.clips:
        clamped_(integers, grid)
        clamped_(ratio, grid)
    rounding = torch.sub(integers, ratio, out=ratio)
    return Quantized(x, clip, grid, spec.steps, integers, rounding)


def inside(g: Tensor, quantized: Quantized, *, out: Tensor | None = None) -> Tensor:
    """Return g where low * scale <= x <= high * scale, 0 elsewhere.

    Args:
        g: a gradient, of x's shape.
        quantized: x and its grid.
        out: a tensor of x's shape that may be overwritten with the result.
    Returns:
        a tensor of x's shape; g itself where nothing is outside.
    """
    if not quantized.grid.clips:
        return g
    lowest, highest = _ends(quantized.grid)
    if isinstance(highest, Tensor) or isinstance(lowest, Tensor):
        return g.masked_fill((quantized.x > highest) | (quantized.x < lowest), 0.0)
    # The backward of hardtanh is a single pass. It excludes the bounds, which count as inside here.
    below, above = -next_float32(-lowest), next_float32(highest)
    if out is None:
        return torch.ops.aten.hardtanh_backward.default(g, quantized.x, below, above)
    return torch.ops.aten.hardtanh_backward.grad_input(g, quantized.x, below, above, grad_input=out)


def input_gradients(g: Tensor, quantized: Quantized) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of x, clip.max and clip.min; overwrites g and the rounding.

    Args:
        g: the gradient of x' = n * scale.
        quantized: x and its integers.
    Returns:
        a tensor of x's shape, and scalars.
    """
    grid, steps = quantized.grid, quantized.steps
    rounding, like = number(dot(g, quantized.rounding)), quantized.clip
    # Reused, because writing to newly allocated memory takes ten times as long as the arithmetic.
    passed = inside(g, quantized, out=quantized.rounding)
    if not grid.clips:
        error = rounding / steps
        return passed, _scalar(error, like.max), _scalar(-error, like.min)
    clipped = g.sub_(passed)
    total, weighted = number(clipped.sum()), number(dot(clipped, quantized.integers))
    above = (weighted - grid.low * total) / steps
    below = (grid.high * total - weighted) / steps
    e_max, e_min = _end_errors(quantized)
    error = rounding / steps + e_max * above + e_min * below
    return passed, _scalar(error + above, like.max), _scalar(below - error, like.min)


def range_shares(quantized: Quantized) -> tuple[Tensor, Tensor]:
    """Return the derivatives of each quantized element with respect to clip.max and clip.min.

    Args:
        quantized: x and its integers.
    Returns:
        e + above and below - e, of x's shape: the gradients are their products with g, summed.
    """
    x = quantized.x
    lowest, highest = _ends(quantized.grid)
    above, below = (x > highest).to(x.dtype), (x < lowest).to(x.dtype)
    e_max, e_min = _end_errors(quantized)
    error = (quantized.rounding / quantized.steps).add_(above * e_max).add_(below * e_min)
    return above.add_(error), below.sub_(error)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum a * b over all elements, without a copy if both have the same dense memory format."""
    if not (a.is_contiguous() and b.is_contiguous()):
        order = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(order), b.permute(order)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _ends(grid: Grid) -> tuple[Number, Number]:
    scale = number(grid.scale)
    return _product(scale, grid.low), _product(scale, grid.high)


def _product(a: Number, b: Number) -> Number:
    product: Number = a * b
    rounded: Number = arithmetic_of(product).float32(product)
    return rounded


def _end_errors(quantized: Quantized) -> tuple[Number, Number]:
    high, low = (_end_error(end, quantized) for end in quantized.clip)
    return high, low


def _end_error(end: Tensor, quantized: Quantized) -> Number:
    quotient: Number = number(end) / number(quantized.grid.scale)
    _, nearest, float32, _ = arithmetic_of(quotient)
    value: Number = float32(quotient)
    error: Number = (nearest(value) - value) / quantized.steps
    return error


def _scalar(value: Number, like: Tensor) -> Tensor:
    # A zero is positive whichever way it was summed: a vmapped layer has the bits of its members.
    value = value + 0.0
    return value if isinstance(value, Tensor) else like.new_full((), value)
