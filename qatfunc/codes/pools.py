"""Average pools whose windows all have one divisor: integer sums and one multiplication."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qatfunc.codes.grids import Output
from qatfunc.codes.rounding import centered, round_to
from qatfunc.limits import EXACT_FLOAT32
from qatfunc.params import QParams
from qatfunc.spec import ActivationSpec, IntSpec

_POOLS: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


class Window(NamedTuple):
    """The windows of an average pool, one number for each spatial axis; as torch's pools."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


def divisor(size: Sequence[int], window: Window) -> int:
    """Return the number of elements that every window of an average pool is divided by.

    Args:
        size: spatial size of the input.
        window: of the pool.
    Returns:
        the divisor.
    Raises:
        ValueError: the windows have several, because some reach over the edge.

    >>> divisor((8, 8), Window((3, 3), (2, 2), (1, 1)))
    9
    """
    if window.divisor_override is not None:
        return window.divisor_override
    found = 1
    for axis in zip(size, window.kernel, window.stride, window.padding, strict=True):
        sizes = _window_sizes(*axis, window)
        if len(sizes) != 1:
            raise ValueError(
                f"windows of {sorted(sizes)} elements along an axis of {axis[0]} have no common "
                f"divisor: {window}"
            )
        found *= sizes.pop()
    return found


def natural_rescale(qparams: QParams, count: int) -> Tensor:
    """Return the factor of integer sums: scale / count.

    Args:
        qparams: the input's scale.
        count: the divisor.
    Returns:
        float32, of the scale's shape.
    """
    return qparams.scale / torch.full_like(qparams.scale, count)


def mean(
    x: Tensor,
    qparams: QParams,
    *,
    output: Output,
    spec: ActivationSpec,
    dim: tuple[int, ...],
    keepdim: bool = False,
    rescale: Tensor | None = None,
    x_spec: IntSpec | None = None,
) -> Tensor:
    """Average a quantized value over axes and round the result.

    n = clamp(round(float32(sum(n_x)) * (scale_x / count) / scale));  the result is n * scale

    Args:
        x: float32, n_x * scale_x.
        qparams: scale and zero point of x.
        output: range and grid of the result.
        spec: integer range of its codes.
        dim: axes to average over.
        keepdim: whether they stay, of size 1.
        rescale: an adjusted scale_x / count; else natural_rescale.
        x_spec: integer range of x's codes; None for that of the result.
    Returns:
        float32 n * scale.
    Gradient: that of the mean, with the gradients of ulq.ulq_quantize at it.
    Source: docs/semantics.md, 7b.
    """

    def sums(values: Tensor) -> Tensor:
        return values.sum(dim, keepdim=keepdim)

    count = math.prod([x.shape[axis] for axis in dim])
    factor = natural_rescale(qparams, count) if rescale is None else rescale
    total = _exact(sums, centered(x, qparams), count, x_spec or spec)
    return round_to(total * factor / output.qparams.scale, sums(x) / count, output, spec=spec)


def average_pool(
    x: Tensor,
    qparams: QParams,
    *,
    output: Output,
    spec: ActivationSpec,
    window: Window,
    rescale: Tensor | None = None,
    x_spec: IntSpec | None = None,
) -> Tensor:
    """Average windows of a quantized value and round the result.

    n = clamp(round(float32(sum(n_x)) * (scale_x / count) / scale));  the result is n * scale

    Args:
        x: float32 (N, C, ...) with one to three spatial axes, n_x * scale_x.
        qparams: scale and zero point of x.
        output: range and grid of the result.
        spec: integer range of its codes.
        window: of the pool; padding contributes the integer 0.
        rescale: an adjusted scale_x / count; else natural_rescale.
        x_spec: integer range of x's codes; None for that of the result.
    Returns:
        float32 n * scale.
    Raises:
        ValueError: the windows have several divisors.
    Gradient: that of the pool, with the gradients of ulq.ulq_quantize at its result.
    Source: docs/semantics.md, 7b.
    """

    def sums(values: Tensor) -> Tensor:
        return _window_sums(values, window)

    count = divisor(x.shape[-len(window.kernel) :], window)
    factor = natural_rescale(qparams, count) if rescale is None else rescale
    total = _exact(sums, centered(x, qparams), math.prod(window.kernel), x_spec or spec)
    return round_to(total * factor / output.qparams.scale, sums(x) / count, output, spec=spec)


def adaptive_average_pool(
    x: Tensor,
    qparams: QParams,
    *,
    output: Output,
    spec: ActivationSpec,
    output_size: Sequence[int],
    **options: Any,
) -> Tensor:
    """Average to a given size, a divisor of the input's; size 1 on every axis for a global pool.

    Args:
        x: float32 (N, C, ...), n_x * scale_x.
        qparams: scale and zero point of x.
        output: range and grid of the result.
        spec: integer range of its codes.
        output_size: of each spatial axis.
        options: rescale and x_spec of average_pool.
    Returns:
        float32 n * scale.
    Raises:
        ValueError: the input's size is no multiple of output_size.
    Gradient: as average_pool.
    Source: docs/semantics.md, 7b.
    """
    size = tuple(x.shape[-len(output_size) :])
    if any(whole % part for whole, part in zip(size, output_size, strict=True)):
        raise ValueError(
            f"windows from size {size} to {tuple(output_size)} have no common divisor: "
            f"the first must be a multiple of the second"
        )
    kernel = tuple(whole // part for whole, part in zip(size, output_size, strict=True))
    window = Window(kernel, kernel, (0,) * len(kernel))
    return average_pool(x, qparams, output=output, spec=spec, window=window, **options)


def _exact(sums: Callable[[Tensor], Tensor], n: Tensor, count: int, spec: IntSpec) -> Tensor:
    """Sum integers exactly, in float64 where float32 might not hold them; round to float32."""
    if count * spec.steps < EXACT_FLOAT32:
        return sums(n)
    return sums(n.double()).float()


def _window_sums(values: Tensor, window: Window) -> Tensor:
    """Sum the elements of each window."""
    kernel, stride, padding = window.kernel, window.stride, window.padding
    if len(kernel) == 1:  # F.avg_pool1d has no divisor_override
        line = (1, *kernel), (1, *stride), (0, *padding)
        return F.avg_pool2d(
            values.unsqueeze(-2), *line, ceil_mode=window.ceil_mode, divisor_override=1
        ).squeeze(-2)
    return _POOLS[len(kernel)](
        values, kernel, stride, padding, ceil_mode=window.ceil_mode, divisor_override=1
    )


def _window_sizes(size: int, kernel: int, stride: int, padding: int, window: Window) -> set[int]:
    """Return how many elements of an axis the windows along it are divided by."""
    room = size + 2 * padding - kernel
    last = -(-room // stride) if window.ceil_mode else room // stride
    if window.ceil_mode and last * stride >= size + padding:
        last -= 1  # torch drops a window that starts beyond the input and its left padding
    starts = [i * stride - padding for i in range(last + 1)]
    if window.count_include_pad:
        return {min(start + kernel, size + padding) - start for start in starts}
    return {min(start + kernel, size) - max(start, 0) for start in starts}
