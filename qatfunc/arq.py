"""ARQ, adaptive range quantization: the weights determine their scales at every step."""

import torch
from torch import Tensor

from qatfunc.affine import quantize_centered
from qatfunc.limits import SMALLEST_SCALE
from qatfunc.linear_maps.channels import channel_extremes
from qatfunc.numerics.arithmetic import TENSORS, Arithmetic, T
from qatfunc.params import QParams
from qatfunc.spec import IntSpec, WeightSpec
from qatfunc.ste import straight_through


def symmetric_scale(high: T, low: T, spec: IntSpec, *, arithmetic: Arithmetic = TENSORS) -> T:
    """Return the scale at which the larger of |low| and |high| is the end of the grid.

    scale = |high| / qmax    if |high| >= |low|
            |low| / -qmin    otherwise (the negative side has one step more)
            1                if that is below SMALLEST_SCALE

    Args:
        high: float32, largest values.
        low: float32 of high's shape, smallest values.
        spec: the grid.
        arithmetic: TENSORS, or FLOATS where high and low are Python floats.
    Returns:
        float32 of high's shape, positive.
    Source: docs/semantics.md, 2.
    """
    where, _, float32, _ = arithmetic
    high, low = abs(high), abs(low)
    scale: T = float32(where(high >= low, high / spec.qmax, low / -spec.qmin))
    return where(scale < SMALLEST_SCALE, 1.0, scale)


def arq_qparams(
    weight: Tensor, spec: WeightSpec, *, transposed: bool = False, groups: int = 1
) -> QParams:
    """Return scales that map the largest |weight| of each channel to the end of the grid.

    Args:
        weight: float32, (out, in/groups, *k) or, transposed, (in, out/groups, *k).
        spec: the grid, and whether scales are per output channel.
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator, used only if it is transposed.
    Returns:
        scale, and a zero point of 0, of weight's rank.
    Raises:
        ValueError: weight has no elements, or groups does not divide a transposed weight.
    Gradient: none; the scale is a constant in each training step.
    Source: docs/semantics.md, 2; AMCT arq_retrain.

    >>> weight = torch.tensor([[1.27, -1.0], [0.5, -1.28]])
    >>> arq_qparams(weight, WeightSpec()).scale.flatten()
    tensor([0.0100, 0.0100])
    """
    if weight.numel() == 0:
        raise ValueError(f"weight has no elements, its shape is {tuple(weight.shape)}")
    if transposed and weight.shape[0] % groups:
        raise ValueError(f"groups={groups} does not divide the {weight.shape[0]} input channels")
    weight = weight.detach()
    if spec.per_channel:
        high, low = channel_extremes(weight, transposed=transposed, groups=groups)
    else:
        dims = list(range(weight.ndim))
        high, low = weight.amax(dims, keepdim=True), weight.amin(dims, keepdim=True)
    scale = symmetric_scale(high, low, spec)
    return QParams(scale, torch.zeros_like(scale))


def arq_quantize(
    weight: Tensor, spec: WeightSpec, *, transposed: bool = False, groups: int = 1
) -> tuple[Tensor, QParams]:
    """Quantize a weight by ARQ to integer-valued float32, with straight-through gradients.

    q = clamp(round(weight / scale), qmin, qmax);  the weight used is q * scale

    Args:
        weight: float32, see arq_qparams.
        spec: the grid.
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        q, float32 of weight's shape, and its QParams.
    Raises:
        ValueError: as arq_qparams.
    Gradient: with respect to q * scale it is straight through; scale is a constant.
    Source: docs/semantics.md, 2.
    """
    qparams = arq_qparams(weight, spec, transposed=transposed, groups=groups)
    integers = quantize_centered(weight.detach(), qparams, spec)
    return straight_through(integers, weight / qparams.scale), qparams
