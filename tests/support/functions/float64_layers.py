"""Derivatives of whole operators in float64, and how far sums in float32 may be from them.

Nothing here comes from qatfunc. What is decided (codes, and which side of a range a value is on) is
decided in float32, as the formulas say; everything after that is float64, and the bilinear maps are
torch's own operators in float64. With X = x' and W = w', tangents marked by a dot:

    Xdot = inside * xdot + (e + upper) * maxdot + (lower - e) * mindot
    Wdot = wdot + r / sqrt(elements * qmax) * sdot
    ydot = op(Xdot, W) + op(X, Wdot) + biasdot

and gradients are the transposes of these. All three maps are linear but for the product, so
second derivatives are products of one tangent with the other.

The bound. A derivative is a sum of products of factors that were themselves rounded. Whatever the
order of summation, a term that has gone through n roundings is off by at most
gamma(n) = n u / (1 - n u) of its magnitude, u = 2^-24 (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1 and 4.2). So a sum is off by gamma(n) times the sum of its terms' magnitudes, with n
the number of terms (additions) plus _OTHERS for what else happens to a single one: the product,
scale_x * scale_w, being multiplied by a scale or divided by it, e / steps and the factor of LSQ are
fewer than 16 roundings. No cancellation is assumed away, hence nothing is guessed.

Two magnitudes are larger than the formula's own terms:
- e = (round(v) - v) / steps has the error of v, which is u * |v|: |v| / steps is added to |e|, and
  |w / s| to |r|;
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

from tests.support.functions.integer_reference import (
    F32,
    activation_grid,
    centered_codes,
    output_channels,
    weight_codes,
)
from tests.support.functions.operands import Product, QuantizedLayer

_UNIT = 2.0**-24
_OTHERS = 16.0

Map = Callable[[Tensor, Tensor], Tensor]
ENDS = ("max", "min")


class Bounded(NamedTuple):
    """A number in float64, and what tells how far one in float32 may be from it."""

    value: Tensor
    size: Tensor
    """The magnitudes of the terms that it is a sum of, summed."""
    roundings: Tensor
    """How many of them a term may go through."""

    def __add__(self, other: Any) -> "Bounded":
        return Bounded(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: Tensor, size: Tensor | None = None) -> "Bounded":
        """Multiply by a factor, of a magnitude of its own if it was rounded."""
        size = factor.abs() if size is None else size
        return Bounded(self.value * factor, self.size * size, self.roundings + 1.0)

    def total(self, shape: tuple[int, ...], more: Tensor | float) -> "Bounded":
        """Sum to a shape; more roundings than there are here."""
        value, size = (t.sum_to_size(shape) for t in self[:2])
        return Bounded(value, size, self.roundings.max() + more)

    def admits(self, found: Tensor) -> bool:
        """Whether a number in float32 is as near as it has to be."""
        gamma = self.roundings * _UNIT / (1.0 - self.roundings * _UNIT)
        near = (found.double() - self.value).abs() <= gamma * self.size
        return found.shape == self.value.shape and bool(near.all())


def exact(t: Tensor) -> Bounded:
    """A number without an error."""
    t = t.detach().double()
    return Bounded(t, t.abs(), torch.zeros_like(t))


Named = dict[str, Bounded]


class LayerDerivatives:
    """Gradients, tangents and second derivatives of a weighted operator."""

    def __init__(self, name: str, layer: QuantizedLayer):
        x, self.params, spec, _ = layer
        self._map = _plain(name, layer)
        self._input = _Input.of(x, self.params["clip"], spec.activation)
        self._weight = _Weight.of(self.params, spec.weight, **_layout(name, layer))
        self._linear = name == "linear"

    def gradients(self, upstream: Bounded) -> Named:
        """Gradients of x, max, min, weight, and of the parameters there are."""
        x, weight = _adjoints(self._map, upstream, self._input.used, self._weight.used)
        return self._pull(x, weight) | self._bias_gradient(upstream)

    def tangent(self, tangents: Mapping[str, Tensor]) -> Bounded:
        """The output's tangent."""
        x, weight = self._input.push(tangents), self._weight.push(tangents)
        pushed = _apply(self._map, x, self._weight.used) + _apply(
            self._map, self._input.used, weight
        )
        if "bias" not in self.params:
            return pushed
        shape = (-1,) + (1,) * (0 if self._linear else pushed.value.ndim - 2)
        spread = tangents["bias"].reshape(shape).expand_as(pushed.value)
        return pushed + exact(spread)

    def second(self, factor: Tensor, y: Tensor, tangents: Mapping[str, Tensor]) -> Named:
        """The Hessian of sum(factor * y^2), times the tangents."""
        double = 2.0 * factor.double()
        first = exact(y).times(double)
        found = self.gradients(self.tangent(tangents).times(double))
        x, _ = _adjoints(self._map, first, self._input.used, self._weight.push(tangents))
        _, weight = _adjoints(self._map, first, self._input.push(tangents), self._weight.used)
        more = self._pull(x, weight)
        return {key: value + more[key] if key in more else value for key, value in found.items()}

    def _pull(self, x: Bounded, weight: Bounded) -> Named:
        # Sums over x or over the weight of these sums, whichever of the two is done first.
        depth = x.roundings.max() + weight.roundings.max() + x.value.numel() + weight.value.numel()
        found = self._input.pull(x, depth) | {"weight": weight}
        if "weight_scale" in self.params:
            found["weight_scale"] = self._weight.pull_scale(weight, depth)
        return found

    def _bias_gradient(self, upstream: Bounded) -> Named:
        if "bias" not in self.params:
            return {}
        count = len(self.params["bias"])
        shape = (count,) if self._linear else (1, count) + (1,) * (upstream.value.ndim - 2)
        summed = upstream.total(shape, upstream.value.numel() + _OTHERS)
        return {"bias": Bounded(*(t.flatten() for t in summed[:2]), summed.roundings)}


def product_gradients(case: Product, upstream: Tensor) -> Named:
    """Gradients of a and b, each with the max and min of its range."""
    operands = zip((case.a, case.b), case.params.values(), strict=True)
    a, b = (_Input.of(x, clip, case.spec) for x, clip in operands)
    slopes = _adjoints(torch.matmul, exact(upstream), a.used, b.used)
    found = {}
    for side, given, slope in zip("ab", (a, b), slopes, strict=True):
        depth = slope.roundings.max() + slope.value.numel()
        found |= {f"{side} {key}": value for key, value in given.pull(slope, depth).items()}
    return found


class _Input(NamedTuple):
    """x' and the factors of ULQ's derivatives, with their magnitudes."""

    used: Bounded
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
            exact(torch.from_numpy(codes * np.float64(scale))),
            torch.from_numpy(~(upper | lower)).double(),
            {end: torch.from_numpy(share) for end, share in shares.items()},
            {end: torch.from_numpy(size) for end, size in sizes.items()},
        )

    def pull(self, slope: Bounded, depth: Tensor) -> Named:
        """x: g inside the range; max: sum(g * (e + upper)); min: sum(g * (lower - e))."""
        return {"x": slope.times(self.inside)} | {
            end: slope.times(self.shares[end], self.sizes[end]).total((), depth) for end in ENDS
        }

    def push(self, tangents: Mapping[str, Tensor]) -> Bounded:
        pushed = exact(tangents["x"]).times(self.inside)
        for end in ENDS:
            spread = exact(tangents[end].expand_as(tangents["x"]))
            pushed += spread.times(self.shares[end], self.sizes[end])
        return pushed


class _Weight(NamedTuple):
    """w' and the factor of LSQ's derivatives, with its magnitude; which scale each weight has."""

    used: Bounded
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
        within = (ratio <= qmax) & (ratio >= -qmax - 1)
        fraction = np.where(within, weight.astype(np.float64) / scale.astype(np.float64), 0.0)
        factor = 1.0 / math.sqrt(weight.size / len(channels) * qmax)
        return cls(
            exact(torch.from_numpy(codes * scale.astype(np.float64))),
            torch.from_numpy((codes - fraction) * factor),
            torch.from_numpy((np.abs(codes - fraction) + np.abs(fraction)) * factor),
            torch.from_numpy(owner),
            len(scales),
        )

    def pull_scale(self, slope: Bounded, depth: Tensor) -> Bounded:
        """sum(g * r) / sqrt(elements of a channel * qmax), for each scale."""
        terms = slope.times(self.share, self.size)
        zeros = torch.zeros(self.scales, dtype=torch.float64)
        owner = self.owner.flatten()
        value, size = (zeros.index_add(0, owner, t.flatten()) for t in terms[:2])
        return Bounded(value, size, depth)

    def push(self, tangents: Mapping[str, Tensor]) -> Bounded:
        pushed = exact(tangents["weight"])
        if "weight_scale" in tangents:
            pushed += exact(tangents["weight_scale"][self.owner]).times(self.share, self.size)
        return pushed


def _apply(op: Map, x: Bounded, weight: Bounded) -> Bounded:
    value, size = op(x.value, weight.value), op(x.size, weight.size)
    count = op(torch.ones_like(x.value), torch.ones_like(weight.value))
    return Bounded(value, size, count + x.roundings.max() + weight.roundings.max() + _OTHERS)


def _adjoints(op: Map, g: Bounded, x: Bounded, weight: Bounded) -> tuple[Bounded, Bounded]:
    """The gradients of a bilinear map's operands for the output's gradient g."""
    ones = (torch.ones_like(t.value) for t in (g, x, weight))
    triples = [t[:2] for t in (g, x, weight)]
    found = [_gradients(op, *three) for three in (*zip(*triples, strict=True), tuple(ones))]
    (x_value, w_value), (x_size, w_size), (x_count, w_count) = found
    more = g.roundings.max() + x.roundings.max() + weight.roundings.max() + _OTHERS
    return Bounded(x_value, x_size, x_count + more), Bounded(w_value, w_size, w_count + more)


def _gradients(op: Map, g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    return torch.autograd.grad(op(*leaves), leaves, g)


def _plain(name: str, layer: QuantizedLayer) -> Map:
    """The operator of torch, with its options; "same" padding is written out."""
    operator, options = getattr(F, name), dict(layer.options)
    padding = options.get("padding")
    if not isinstance(padding, str):
        return lambda x, weight: operator(x, weight, **options)
    kernel, gaps = layer.params["weight"].shape[2:], options["dilation"]
    gaps = [gaps] * len(kernel) if isinstance(gaps, int) else gaps
    amounts: list[int] = []
    for gap, size in reversed(list(zip(gaps, kernel, strict=True))):
        total = gap * (size - 1) if padding == "same" else 0
        amounts += [total // 2, total - total // 2]
    return lambda x, weight: operator(F.pad(x, amounts), weight, **(options | {"padding": 0}))


def _layout(name: str, layer: QuantizedLayer) -> dict[str, Any]:
    return {"transposed": "transpose" in name, "groups": layer.options.get("groups", 1)}
