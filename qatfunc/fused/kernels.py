"""The arithmetic of the fused operator, forward and backward, in few passes over the data."""

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.affine import check_broadcast
from qatfunc.arq import arq_qparams, symmetric_scale
from qatfunc.fused.grid import Grid, activation_grid, to_integers
from qatfunc.fused.int8_sums import integer_sums
from qatfunc.fused.range_gradients import (
    Quantized,
    dot,
    input_gradients,
    inside,
    quantize_again,
    range_shares,
)
from qatfunc.linear_maps.bilinear import Bilinear, Convolution, Linear
from qatfunc.linear_maps.channels import output_channels, per_output, sum_to_channels, to_full_rank
from qatfunc.lsq import lsq_slope
from qatfunc.numerics.arithmetic import FLOATS
from qatfunc.numerics.concrete import reads_cheaply
from qatfunc.numerics.torch_internals import onednn_is_enabled
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, WeightSpec

_ZERO = torch.zeros((), dtype=torch.float32, device="cpu")

_FEW_SCALES = 16
"""Up to this many scales, Python floats are faster than operators on tensors."""

_FEW_WEIGHTS = 256
"""Up to this many weights, a list of them all is faster than their extremes per channel."""

_FEW_CHANNELS = 4
"""Up to this many channels, two weight gradients are faster than one input gradient (oneDNN)."""


class FusedSpec(NamedTuple):
    """The static part of one call of the fused operator.

    Args:
        op: the operator.
        weight: the weight's grid.
        activation: the input's grid.
        optional: names of the optional parameters that are given: "bias", "weight_scale".
    """

    op: Bilinear
    weight: WeightSpec
    activation: ActivationSpec
    optional: tuple[str, ...]


class Operands(NamedTuple):
    """The tensors of one call; `optional` has those that FusedSpec.optional names."""

    x: Tensor
    weight: Tensor
    clip: Clip
    optional: dict[str, Tensor]


def named(spec: FusedSpec, tensors: Sequence[Tensor]) -> Operands:
    """Return (x, weight, clip.max, clip.min, *optional) by their names."""
    optional = dict(zip(spec.optional, tensors[4:], strict=True))
    return Operands(tensors[0], tensors[1], Clip(*tensors[2:4]), optional)


class Grids(NamedTuple):
    """The grids of one call, which its backward reuses."""

    x: Grid
    weight: Grid
    """Its scale is of the weight's rank."""


def grids_of(spec: FusedSpec, operands: Operands, scales: Tensor) -> Grids:
    """Return the grids of a forward, given the scales of its weight."""
    x = activation_grid(operands.x, operands.clip, spec.activation)
    return Grids(x, Grid(scales, spec.weight.qmin, spec.weight.qmax))


def fused_forward(spec: FusedSpec, operands: Operands) -> tuple[Tensor, Grids]:
    """Compute the operator.

    Args:
        spec: the static part of the call.
        operands: the tensors.
    Returns:
        the output, and the grids of the operands.
    """
    op, weight_grid = spec.op, _weight_grid(spec, operands)
    grid = activation_grid(operands.x, operands.clip, spec.activation)
    rescale = _output_scales(op, weight_grid.scale) * grid.scale
    integers = to_integers(operands.x, grid), to_integers(operands.weight, weight_grid)
    acc = integer_sums(op, *integers, grid)
    # Rounding does not change an exact sum; it corrects convolutions whose algorithm is inexact on
    # integers (Winograd). Adding +0.0 turns -0.0 into +0.0, the only zero of an integer.
    if not _sums_exactly(op, acc):
        acc.round_()
    bias = operands.optional.get("bias")
    acc.add_(_ZERO if bias is None else (op.per_channel(bias) / rescale).round_().add_(_ZERO))
    return acc.mul_(rescale), Grids(grid, weight_grid)


def fused_backward(
    spec: FusedSpec, needed: Sequence[bool], g: Tensor, grids: Grids, operands: Operands
) -> tuple[Tensor, ...]:
    """Compute the gradients of the operands from tensors that the float operator saves, too.

    With n the integers of x and w' = q_w * scale_w, they follow from dL/dx' = op^T(g, w') and
    dL/dw' = op^T(g, n) * scale_x, without another pass over g.

    Args:
        spec: the static part of the call.
        needed: which of (x, weight, clip.max, clip.min, *optional) need a gradient.
        g: the output's gradient.
        grids: as fused_forward returned them.
        operands: the tensors of the forward.
    Returns:
        the needed gradients, in that order.
    """
    wanted = dict(zip(("x", "weight", "max", "min", *spec.optional), needed, strict=True))
    quantized = quantize_again(operands.x, operands.clip, grids.x, spec.activation)
    step = _Step(spec, wanted, g, grids.weight, operands, quantized)
    if step.by_range and not wanted["x"] and _has_few_channels(spec.op, operands.weight):
        found = _by_first_layer(step)
    else:
        of_input, of_weight = _slopes(step)
        found = {} if of_input is None else _by_input(step, of_input)
        if of_weight is not None:
            found |= _weights(step, of_weight)
    if wanted.get("bias"):
        found["bias"] = _shaped(spec.op.sum_to_channels(g), operands.optional["bias"])
    return tuple(found[name] for name, want in wanted.items() if want)


class _Step(NamedTuple):
    """The arguments of a backward, and the input quantized again."""

    spec: FusedSpec
    wanted: dict[str, bool]
    g: Tensor
    grid: Grid
    """The weight's."""
    operands: Operands
    quantized: Quantized

    @property
    def by_range(self) -> bool:
        return self.wanted["max"] or self.wanted["min"]

    @property
    def by_weight(self) -> bool:
        return self.wanted["weight"] or self.wanted.get("weight_scale", False)

    def fake_weight(self) -> Tensor:
        return to_integers(self.operands.weight, self.grid).mul_(self.grid.scale)


def _by_input(step: _Step, slope: Tensor) -> dict[str, Tensor]:
    """Gradients of x and of its range from dL/dx'."""
    if not step.by_range:
        return {"x": inside(slope, step.quantized)}
    of_x, high, low = input_gradients(slope, step.quantized)
    return {"x": of_x, "max": high, "min": low}


def _slopes(step: _Step) -> tuple[Tensor | None, Tensor | None]:
    """dL/dx' and dL/dw' if needed; scales multiply the smaller factor, or the result."""
    op, g, weight = step.spec.op, step.g, step.operands.weight
    integers = step.quantized.integers
    small_weight = min(g.numel(), integers.numel()) >= weight.numel()
    by_input, by_weight = step.wanted["x"] or step.by_range, step.by_weight
    if small_weight and by_input and by_weight:
        of_input, of_weight = op.gradients(g, integers, step.fake_weight())
        return of_input, of_weight.mul_(step.quantized.grid.scale)
    return (
        _input_slope(step) if by_input else None,
        _weight_slope(step) if by_weight else None,
    )


def _weight_slope(step: _Step) -> Tensor:
    op, weight = step.spec.op, step.operands.weight
    integers, scale = step.quantized.integers, step.quantized.grid.scale
    if integers.numel() >= weight.numel():
        return op.weight_gradient(step.g, integers, weight).mul_(scale)
    return op.weight_gradient(step.g, integers * scale, weight)


def _input_slope(step: _Step) -> Tensor:
    op, g, x, weight = step.spec.op, step.g, step.operands.x, step.operands.weight
    if g.numel() >= weight.numel():
        return op.input_gradient(g, x, step.fake_weight())
    integers = to_integers(weight, step.grid)
    return op.input_gradient(g * _output_scales(op, step.grid.scale), x, integers)


def _by_first_layer(step: _Step) -> dict[str, Tensor]:
    """Gradients of the range and of the weight of a layer whose input needs no gradient.

    <op^T(g, w'), share> = <w', gradient of the weight for the input `share`>
    """
    op, g, weight = step.spec.op, step.g, step.operands.weight
    fake_input = step.quantized.integers * step.quantized.grid.scale
    inputs = [fake_input, *range_shares(step.quantized)]
    if weight.shape[1] == 1:  # three channels fit the vectors that one needs
        wide = weight.new_empty(len(weight), len(inputs), *weight.shape[2:])
        slopes = op.weight_gradient(g, torch.cat(inputs, 1), wide).split(1, 1)
    else:
        slopes = tuple(op.weight_gradient(g, each, weight) for each in inputs)
    fake = step.fake_weight()
    found = {"max": dot(slopes[1], fake), "min": dot(slopes[2], fake)}
    return found | _weights(step, slopes[0].contiguous()) if step.by_weight else found


def _weights(step: _Step, slope: Tensor) -> dict[str, Tensor]:
    """Gradients of the weight and of its trained scale from dL/dw'."""
    found, spec, (_, weight, _, optional) = {"weight": slope}, step.spec, step.operands
    if step.wanted.get("weight_scale"):
        op = spec.op
        channels = output_channels(weight, transposed=op.transposed, groups=op.groups)
        terms = lsq_slope(weight, step.grid.scale, spec.weight, channels=channels) * slope
        scale = optional["weight_scale"]
        per_channel = sum_to_channels(terms, transposed=op.transposed, groups=op.groups)
        summed = per_channel if scale.numel() > 1 else per_channel.sum()
        found["weight_scale"] = _shaped(summed, scale)
    return found


def _weight_grid(spec: FusedSpec, operands: Operands) -> Grid:
    """Return the weight's grid, with trained scales or arq.arq_qparams', of the weight's rank."""
    op, weight, ends = spec.op, operands.weight, (spec.weight.qmin, spec.weight.qmax)
    given = operands.optional.get("weight_scale")
    if given is not None:
        scales = to_full_rank(given, weight, transposed=op.transposed, groups=op.groups)
        check_broadcast(scales, weight)
        return Grid(scales, *ends)
    count = len(weight) if spec.weight.per_channel else 1
    if count > _FEW_SCALES or op.transposed or not reads_cheaply(weight):
        arq = arq_qparams(weight, spec.weight, transposed=op.transposed, groups=op.groups)
        return Grid(arq.scale, *ends)
    ones = (1,) * (weight.ndim - 1)
    if count == 1:
        low, high = (end.item() for end in torch.aminmax(weight))
        scale = symmetric_scale(high, low, spec.weight, arithmetic=FLOATS)
        return Grid(weight.new_full((1, *ones), scale), *ends, clips=_clips(high, scale, ends[1]))
    extremes = list(_extremes(weight.reshape(count, -1)))
    numbers = [symmetric_scale(high, low, spec.weight, arithmetic=FLOATS) for high, low in extremes]
    pairs = zip(extremes, numbers, strict=True)
    clips = any(_clips(high, scale, ends[1]) for (high, _), scale in pairs)
    # frombuffer takes a third of the time of torch.tensor(list).
    scales = torch.frombuffer(array("f", numbers), dtype=torch.float32).view(count, *ones)
    return Grid(scales, *ends, clips=clips)


def _clips(high: float, scale: float, qmax: int) -> bool:
    """Whether weights up to high may round above qmax, if the lowest weight set the scale."""
    return high > (qmax + 0.49) * scale


def _extremes(rows: Tensor) -> Iterable[tuple[float, float]]:
    """Return each row's largest and smallest weight; NaN for a row with a NaN."""
    if rows.numel() <= _FEW_WEIGHTS:
        numbers = rows.tolist()
        if math.isfinite(sum(map(sum, numbers))):
            return [(max(row), min(row)) for row in numbers]
    return zip(rows.amax(1).tolist(), rows.amin(1).tolist(), strict=True)


def _shaped(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape == like.shape else x.reshape(like.shape)


def _output_scales(op: Bilinear, scales: Tensor) -> Tensor:
    """Return the weight's scales in a shape that broadcasts to the output."""
    if scales.numel() == 1:
        return scales
    if op.transposed:
        scales = per_output(scales, transposed=True, groups=op.groups)
    return op.per_channel(scales)


def _sums_exactly(op: Bilinear, x: Tensor) -> bool:
    """Whether the kernel sums the products themselves, as oneDNN's convolutions in torch do."""
    return x.is_cpu and (isinstance(op, Linear) or onednn_is_enabled())


def _has_few_channels(op: Bilinear, weight: Tensor) -> bool:
    plain = isinstance(op, Convolution) and not op.transposed and op.groups == 1
    return plain and weight.shape[1] <= _FEW_CHANNELS
