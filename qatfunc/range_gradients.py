"""ULQ's gradients of x and of the range in few passes over the data (see qatfunc.ulq).

With n the integers of x and g the gradient of x' = n * scale:

    x:        g inside the range, 0 outside
    clip.max: E + sum of g above;   clip.min: sum of g below - E
    E = sum(g * (n - clamp(x / scale, low, high))) / steps + e_max * sum above + e_min * sum below

where e_end = (round(end / scale) - end / scale) / steps. Only the few elements outside the range
contribute to both sums, so their integers, high above and low below, tell one from the other.
"""

import torch
from torch import Tensor

from qatfunc.grid import Grid
from qatfunc.numbers import Number, number
from qatfunc.params import Clip
from qatfunc.scalars import next_float32, round_half_even, to_float32


def inside(g: Tensor, x: Tensor, grid: Grid) -> Tensor:
    """Return g where low * scale <= x <= high * scale, 0 elsewhere.

    Args:
        g: a gradient, of x's shape.
        x: what was quantized.
        grid: its grid.
    Returns:
        a new tensor.
    """
    highest, lowest = _product(grid.scale, grid.high), _product(grid.scale, grid.low)
    if isinstance(highest, Tensor) or isinstance(lowest, Tensor):
        return g.masked_fill((x > highest) | (x < lowest), 0.0)
    # The backward of hardtanh is one pass; it drops the bounds themselves, which are inside here.
    below, above = -next_float32(-lowest), next_float32(highest)
    return torch.ops.aten.hardtanh_backward(g, x, below, above)


def range_gradients(
    g: Tensor, x: Tensor, integers: Tensor, clip: Clip, grid: Grid, *, passed: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of clip.max and clip.min; writes to g.

    Args:
        g: the gradient of x' = integers * scale, overwritten.
        x: what was quantized.
        integers: counted from the zero point.
        clip: the range.
        grid: its grid.
        passed: inside(g, x, grid).
        steps: high - low.
    Returns:
        scalars.
    """
    rounding = number(dot(g, _rounding(x, integers, grid)))
    clipped = g.sub_(passed)
    total, weighted = number(clipped.sum()), number(dot(clipped, integers))
    above = (weighted - grid.low * total) / steps
    below = (grid.high * total - weighted) / steps
    e_max, e_min = (_end_error(end, grid, steps=steps) for end in clip)
    error = rounding / steps + e_max * above + e_min * below
    return _scalar(error + above, clip.max), _scalar(below - error, clip.min)


def range_shares(
    x: Tensor, integers: Tensor, clip: Clip, grid: Grid, *, steps: int
) -> tuple[Tensor, Tensor]:
    """Return what each element's gradient counts in those of clip.max and clip.min.

    Args:
        x: what was quantized.
        integers: counted from the zero point.
        clip: the range.
        grid: its grid.
        steps: high - low.
    Returns:
        e + above and below - e, of x's shape: the gradients are their products with g, summed.
    """
    above = (x > _product(grid.scale, grid.high)).to(x.dtype)
    below = (x < _product(grid.scale, grid.low)).to(x.dtype)
    e_max, e_min = (_end_error(end, grid, steps=steps) for end in clip)
    error = _rounding(x, integers, grid).div_(steps).add_(above * e_max).add_(below * e_min)
    return above.add_(error), below.sub_(error)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum a * b over all elements, without a copy where both have one dense memory format."""
    if not (a.is_contiguous() and b.is_contiguous()):
        order = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(order), b.permute(order)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _rounding(x: Tensor, integers: Tensor, grid: Grid) -> Tensor:
    """Return n - x / scale inside the range, 0 outside."""
    ratio = torch.div(x, grid.scale)
    ratio.clamp_(grid.low, grid.high)  # type: ignore[arg-type]
    return torch.sub(integers, ratio, out=ratio)


def _product(a: Number, b: Number) -> Number:
    product = a * b
    return product if isinstance(product, Tensor) else to_float32(product)


def _end_error(end: Tensor, grid: Grid, *, steps: int) -> Number:
    value = number(end) / grid.scale
    if isinstance(value, Tensor):
        return (torch.round(value) - value) / steps
    value = to_float32(value)
    return (round_half_even(value) - value) / steps


def _scalar(value: Number, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else like.new_full((), value)
