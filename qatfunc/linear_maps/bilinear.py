"""Operators that are linear in input and weight (linear, convolutions), and their gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from qatfunc.linear_maps.padding import Ints, resolve_padding
from qatfunc.numerics.concrete import traced


@dataclass(frozen=True, slots=True)
class Linear:
    """torch.nn.functional.linear without a bias."""

    transposed: ClassVar[bool] = False
    groups: ClassVar[int] = 1

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Map x, (*, in), by weight, (out, in)."""
        return F.linear(x, weight)

    def per_channel(self, values: Tensor) -> Tensor:
        """Reshape one value per output channel so that it broadcasts to the output."""
        return values if values.ndim == 1 else values.reshape(-1)

    def sum_to_channels(self, y: Tensor) -> Tensor:
        """Sum an output over all axes but that of the channels."""
        return _rows(y).sum(0)

    def join_batches(self, x: Tensor) -> Tensor:
        """Merge a stack of batches, (count, N, *), into the one batch that the operator takes."""
        return x

    def split_batches(self, y: Tensor, count: int) -> Tensor:  # noqa: ARG002
        """Split the output of join_batches into its stack of batches again."""
        return y

    def input_gradient(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gradient of x for the output's gradient g."""
        return torch.mm(g, weight) if g.ndim == 2 else g @ weight

    def weight_gradient(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gradient of weight for the output's gradient g."""
        return torch.mm(_rows(g).t(), _rows(x))

    def gradients(self, g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of weight for the output's gradient g."""
        return self.input_gradient(g, x, weight), self.weight_gradient(g, x, weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution or transposed convolution without a bias, of one to three axes.

    Args:
        stride, padding, output_padding, dilation: one per axis.
        groups: as torch's.
        transposed: whether it is a transposed convolution.
        outer: amounts by which torch.nn.functional.pad pads the input first; empty for none.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    outer: tuple[int, ...] = ()

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve x, (N, in, *spatial), with weight."""
        return torch.convolution(
            self._padded(x),
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
        )

    def per_channel(self, values: Tensor) -> Tensor:
        """Reshape one value per output channel so that it broadcasts to the output."""
        return values.reshape(-1, *(1 for _ in self.stride))

    def sum_to_channels(self, y: Tensor) -> Tensor:
        """Sum an output over all axes but that of the channels."""
        return y.sum([d for d in range(y.ndim) if d != 1])

    def join_batches(self, x: Tensor) -> Tensor:
        """Merge a stack of batches, (count, N, *), into the one batch that the operator takes."""
        return x.flatten(0, 1)

    def split_batches(self, y: Tensor, count: int) -> Tensor:
        """Split the output of join_batches into its stack of batches again."""
        return y.unflatten(0, (count, -1))

    def input_gradient(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of x for the output's gradient g."""
        return self._cut(self._gradients(g, self._padded(x), weight, [True, False, False])[0])

    def weight_gradient(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of weight, of which only the shape is used."""
        return self._gradients(g, self._padded(x), weight, [False, True, False])[1]

    def gradients(self, g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of weight for the output's gradient g."""
        of_input, of_weight, _ = self._gradients(g, self._padded(x), weight, [True, True, False])
        return self._cut(of_input), of_weight

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.outer) if self.outer else x

    def _cut(self, gradient: Tensor) -> Tensor:
        return F.pad(gradient, [-amount for amount in self.outer]) if self.outer else gradient

    def _gradients(
        self, g: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.convolution_backward.default(
            g,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            wanted,
        )


Bilinear = Linear | Convolution


def _rows(x: Tensor) -> Tensor:
    """Return x as a matrix."""
    return x if x.ndim == 2 else x.flatten(0, -2)


def convolution(
    kernel_size: Sequence[int], *, stride: Ints, padding: Ints | str, dilation: Ints, groups: int
) -> Convolution:
    """Describe a convolution in torch's terms.

    Args:
        kernel_size: one size per axis.
        stride: one for all axes or one per axis.
        padding: as stride, or "same" or "valid".
        dilation: as stride.
        groups: as torch's.
    Returns:
        the convolution.
    Raises:
        ValueError: padding is another string.
    """
    # Cached, because a small layer is called often; torch.compile warns of lru_cache.
    describe = _convolution if traced() else _known_convolution
    return describe(_fixed(kernel_size), _fixed(stride), _fixed(padding), _fixed(dilation), groups)


def _convolution(
    kernel_size: tuple[int, ...], stride: Ints, padding: Ints | str, dilation: Ints, groups: int
) -> Convolution:
    inner, outer = resolve_padding(padding, kernel_size, dilation)
    axes = len(kernel_size)
    return Convolution(
        stride=_each(stride, axes),
        padding=_each(inner, axes),
        output_padding=(0,) * axes,
        dilation=_each(dilation, axes),
        groups=groups,
        transposed=False,
        outer=tuple(outer),
    )


_known_convolution = lru_cache(maxsize=256)(_convolution)


def transposed_convolution(
    axes: int, *, stride: Ints, padding: Ints, output_padding: Ints, dilation: Ints, groups: int
) -> Convolution:
    """Describe a transposed convolution in torch's terms.

    Args:
        axes: number of spatial axes.
        stride: one for all axes or one per axis.
        padding: as stride.
        output_padding: as stride.
        dilation: as stride.
        groups: as torch's.
    Returns:
        the transposed convolution.
    """
    return Convolution(
        stride=_each(stride, axes),
        padding=_each(padding, axes),
        output_padding=_each(output_padding, axes),
        dilation=_each(dilation, axes),
        groups=groups,
        transposed=True,
    )


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _each(value: Ints, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values
