"""The gradients of whole operators in float64, and how far sums in float32 may be from them.

Nothing here comes from qatfunc. What is decided (codes, and which side of a range a value is on) is
decided in float32, as the formulas say; everything after that is float64, and the linear maps are
torch's own operators in float64.

The bound. A gradient is a sum of products of factors that were themselves rounded. Whatever the
order of summation, a term that has gone through n roundings is off by at most
gamma(n) = n u / (1 - n u) of its magnitude, u = 2^-24 (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1 and 4.2). So a sum is off by gamma(n) times the sum of its terms' magnitudes, where
n is the number of terms (additions) plus _OTHERS for what happens to a single one: the product
itself, scale_x * scale_w, factors multiplied by a scale or divided by it, e / steps and the factor
of LSQ are fewer than 16 roundings. No cancellation is assumed away, hence nothing is guessed.

Two magnitudes are larger than the formula's own terms:
- e = (round(v) - v) / steps has the error of v, which is u * |v|: |v| / steps is added to |e|;
- sums above and below a range may be told apart by the integers they are made of, as
  sum((n - low) g) / steps with |n| and |low| up to steps, and enter sum(g e) once more with
  factors of at most 1/2 / steps: less than 3 |g| for every value outside the range.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from property_tests.strategies import Product, QuantizedLayer
from tests.qatfunc.integer_reference import (
    F32,
    activation_grid,
    centered_codes,
    output_channels,
    weight_codes,
)

_UNIT = 2.0**-24
_OTHERS = 16

Map = Callable[[Tensor, Tensor], Tensor]


class Gradient(NamedTuple):
    """A gradient in float64, and what tells how far one in float32 may be from it."""

    value: Tensor
    size: Tensor
    """The magnitudes of the terms that it is a sum of, summed."""
    roundings: Tensor
    """How many of them a term may go through."""

    def __add__(self, other: Any) -> "Gradient":
        roundings = torch.maximum(self.roundings, other.roundings) + 1.0
        return Gradient(self.value + other.value, self.size + other.size, roundings)

    def admits(self, found: Tensor, *, times: float = 1.0) -> bool:
        """Whether a gradient in float32 is as near as it has to be."""
        bound = times * _gamma(self.roundings) * self.size
        near = (found.double() - self.value).abs() <= bound
        return found.shape == self.value.shape and bool(near.all())


Gradients = dict[str, Gradient]


def _gamma(roundings: Tensor) -> Tensor:
    return roundings * _UNIT / (1.0 - roundings * _UNIT)


def layer_gradients(name: str, layer: QuantizedLayer, upstream: Tensor) -> Gradients:
    """Gradients of x, "max", "min" and the parameters there are, for the output's upstream."""
    x, params, spec, _ = layer
    op, layout = _plain(name, layer), _layout(name, layer)
    given = _Input.of(x, params["clip"], spec.activation)
    weight = _Weight.of(params, spec.weight, **layout)
    slopes = _Slopes.of(op, upstream, given.used, weight.used)
    found = given.gradients(slopes.x, slopes.depth)
    found["weight"] = slopes.weight
    if "weight_scale" in params:
        found["weight_scale"] = weight.scale_gradient(slopes.weight, slopes.depth)
    if "bias" in params:
        axes = [axis for axis in range(upstream.ndim) if axis != _channel_axis(name, upstream)]
        g = upstream.double()
        found["bias"] = Gradient(
            g.sum(axes), g.abs().sum(axes), torch.ones_like(g).sum(axes) + _OTHERS
        )
    return found


def product_gradients(case: Product, upstream: Tensor) -> Gradients:
    """Gradients of a and b, each with the "max" and "min" of its range."""
    operands = zip((case.a, case.b), case.params.values(), strict=True)
    a, b = (_Input.of(x, clip, case.spec) for x, clip in operands)
    slopes = _Slopes.of(torch.matmul, upstream, a.used, b.used)
    sides = (("a", a, slopes.x), ("b", b, slopes.weight))
    return {
        f"{side} {key}": gradient
        for side, given, slope in sides
        for key, gradient in given.gradients(slope, slopes.depth).items()
    }


class _Slopes(NamedTuple):
    """dL/dx' and dL/dw' of a bilinear map, and the roundings of a sum over either of them."""

    x: Gradient
    weight: Gradient
    depth: Tensor

    @classmethod
    def of(cls, op: Map, upstream: Tensor, x: Tensor, weight: Tensor) -> "_Slopes":
        g = upstream.double()
        values = _adjoints(op, g, x, weight)
        sizes = _adjoints(op, g.abs(), x.abs(), weight.abs())
        counts = _adjoints(op, *(torch.ones_like(t) for t in (g, x, weight)))
        of_x, of_weight = (
            Gradient(value, size, count + _OTHERS)
            for value, size, count in zip(values, sizes, counts, strict=True)
        )
        # Sums over x or over the weight of these sums, whichever of the two is done first.
        most = sum((count.max() for count in counts), torch.zeros(()))
        return cls(of_x, of_weight, most + x.numel() + weight.numel() + _OTHERS)


class _Input(NamedTuple):
    """x' and the factors of ULQ's gradients, with their magnitudes."""

    used: Tensor
    inside: Tensor
    shares: dict[str, Tensor]
    sizes: dict[str, Tensor]

    @classmethod
    def of(cls, x: Tensor, clip: Any, spec: Any) -> "_Input":
        values = x.detach().numpy()
        high, low = (end.detach().numpy()[()] for end in clip)
        scale, zero_point = activation_grid(high, low, spec)
        codes = centered_codes(values, scale, zero_point, spec.bits)
        qmin, qmax, steps = -(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1, 2**spec.bits - 1
        upper = values > F32(scale * F32(qmax - zero_point))
        lower = values < F32(scale * F32(qmin - zero_point))
        clipped = np.where(upper, high, np.where(lower, low, values))
        v = clipped.astype(np.float64) / np.float64(scale)
        e = (np.rint(clipped / scale) - v) / steps
        shares = {"max": e + upper, "min": lower - e}
        more = 3.0 * (upper | lower) + np.abs(v) / steps
        sizes = {end: np.abs(share) + more for end, share in shares.items()}
        return cls(
            torch.from_numpy(codes * np.float64(scale)),
            torch.from_numpy(~(upper | lower)),
            {end: torch.from_numpy(share) for end, share in shares.items()},
            {end: torch.from_numpy(size) for end, size in sizes.items()},
        )

    def gradients(self, slope: Gradient, depth: Tensor) -> Gradients:
        """x: g inside the range; max: sum(g * (e + upper)); min: sum(g * (lower - e))."""
        kept = Gradient(slope.value * self.inside, slope.size * self.inside, slope.roundings)
        return {"x": kept} | {
            end: _weighted_sum(slope, share, self.sizes[end], depth)
            for end, share in self.shares.items()
        }


class _Weight(NamedTuple):
    """w' and the factor of LSQ's gradient, with its magnitude, and which scale each weight has."""

    used: Tensor
    share: Tensor
    size: Tensor
    owner: Tensor
    scales: int

    @classmethod
    def of(
        cls, params: Mapping[str, Tensor], spec: Any, *, transposed: bool, groups: int
    ) -> "_Weight":
        weight = params["weight"].detach().numpy()
        given = params["weight_scale"].detach().numpy() if "weight_scale" in params else None
        layout = {"transposed": transposed, "groups": groups}
        codes, scales = weight_codes(weight, spec, given, **layout)
        owner: NDArray[np.int64] = np.zeros(weight.shape, np.int64)
        channels = list(output_channels(weight, **layout))
        if len(scales) > 1:
            for index, part in enumerate(channels):
                owner[part] = index
        scale, qmax = scales[owner], 2 ** (spec.bits - 1) - 1
        ratio = weight / scale
        outside = (ratio > qmax) | (ratio < -qmax - 1)
        exact = weight.astype(np.float64) / scale.astype(np.float64)
        r = codes - np.where(outside, 0.0, exact)
        factor = 1.0 / math.sqrt(weight.size / len(channels) * qmax)
        return cls(
            torch.from_numpy(codes * scale.astype(np.float64)),
            torch.from_numpy(r * factor),
            torch.from_numpy((np.abs(r) + np.abs(exact) * ~outside) * factor),
            torch.from_numpy(owner),
            len(scales),
        )

    def scale_gradient(self, slope: Gradient, depth: Tensor) -> Gradient:
        """sum(g * r) / sqrt(elements of a channel * qmax), for each scale."""
        sums = [
            _weighted_sum(
                Gradient(*(t[self.owner == index] for t in slope)),
                self.share[self.owner == index],
                self.size[self.owner == index],
                depth,
            )
            for index in range(self.scales)
        ]
        return Gradient(*(torch.stack(column) for column in zip(*sums, strict=True)))


def _weighted_sum(slope: Gradient, share: Tensor, size: Tensor, depth: Tensor) -> Gradient:
    return Gradient((slope.value * share).sum(), (slope.size * size).sum(), depth)


def _adjoints(op: Map, g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    return torch.autograd.grad(op(*leaves), leaves, g)


def _plain(name: str, layer: QuantizedLayer) -> Map:
    """The operator of torch, with its options; "same" padding is written out."""
    operator, options = getattr(F, name), dict(layer.options)
    padding = options.get("padding")
    if not isinstance(padding, str):
        return lambda x, weight: operator(x, weight, **options)
    kernel = layer.params["weight"].shape[2:]
    gaps = options["dilation"]
    gaps = [gaps] * len(kernel) if isinstance(gaps, int) else gaps
    amounts: list[int] = []
    for gap, size in reversed(list(zip(gaps, kernel, strict=True))):
        total = gap * (size - 1) if padding == "same" else 0
        amounts += [total // 2, total - total // 2]
    return lambda x, weight: operator(F.pad(x, amounts), weight, **(options | {"padding": 0}))


def _layout(name: str, layer: QuantizedLayer) -> dict[str, Any]:
    return {"transposed": "transpose" in name, "groups": layer.options.get("groups", 1)}


def _channel_axis(name: str, output: Tensor) -> int:
    return output.ndim - 1 if name == "linear" else 1
