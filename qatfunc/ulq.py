"""ULQ: activation ranges whose two ends are trained."""

import torch
from torch import Tensor

from qatfunc.affine import quantize_centered
from qatfunc.arq import symmetric_scale
from qatfunc.limits import LARGEST_END, SMALLEST_SCALE
from qatfunc.numerics.arithmetic import TENSORS, Arithmetic, T
from qatfunc.numerics.concrete import reads_cheaply, traced
from qatfunc.params import Clip, QParams
from qatfunc.spec import ActivationSpec
from qatfunc.ste import replace_value, straight_through


def resolve_clip(clip: Clip, previous: Clip, spec: ActivationSpec) -> Clip:
    """Replace the invalid ends of a trained range by those of the last valid range.

    fixed_min                  -> min = 0
    max <= min (crossed)       -> both from previous
    max < 0 or unusable        -> max from previous
    min > 0 or unusable        -> min from previous

    An end that is NaN, infinite, or larger than LARGEST_END in magnitude is unusable.

    A range narrower than SMALLEST_SCALE but not crossed is kept, as the reference does; its scale
    then becomes 1.

    Args:
        clip: the trained range.
        previous: the last range that was valid.
        spec: says whether the lower end is fixed at 0.
    Returns:
        a valid range; `previous` of the next call.
    Gradient: straight through to clip, also where an end was replaced; 0 for an end that is not
        finite.
    Source: docs/semantics.md, 3.
    """
    high = clip.max.detach()
    low = torch.zeros_like(clip.min) if spec.fixed_min else clip.min.detach()
    crossed = high <= low
    # Every comparison with NaN is false.
    usable_high, usable_low = (
        (high >= 0) & (high <= LARGEST_END),
        (low <= 0) & (low >= -LARGEST_END),
    )
    high = torch.where(crossed | ~usable_high, previous.max, high)
    low = torch.where(crossed | ~usable_low, previous.min, low)
    crossed = high <= low  # one end at 0, and the other replaced by 0
    high, low = torch.where(crossed, previous.max, high), torch.where(crossed, previous.min, low)
    if spec.fixed_min:
        low = torch.zeros_like(low)
    return Clip(replace_value(clip.max, high), replace_value(clip.min, low))


def valid_ends(clip: Clip, spec: ActivationSpec) -> tuple[float, float] | None:
    """Return the ends of a valid range as Python floats, where reading them is cheap.

    Args:
        clip: the trained range; not under a transform of torch.func.
        spec: says whether the lower end is fixed at 0.
    Returns:
        its upper and lower end; None where resolve_clip would replace one, where the range is not
        on a CPU, and while tracing.
    """
    if traced() or not reads_cheaply(clip.max):
        return None
    high, low = clip.max.item(), clip.min.item()
    valid = LARGEST_END >= high >= 0.0 >= low >= -LARGEST_END and high > low
    return (high, low) if valid and (low == 0.0 or not spec.fixed_min) else None


def range_scale(
    high: T, low: T, spec: ActivationSpec, *, arithmetic: Arithmetic = TENSORS
) -> tuple[T, T]:
    """Turn the ends of a range into a scale and a zero point: ulq_qparams' formula.

    Args:
        high: upper end, float32.
        low: lower end, float32.
        spec: the grid.
        arithmetic: TENSORS, or FLOATS where high and low are Python floats.
    Returns:
        scale and zero point, float32; NaN where an end is NaN.
    Source: docs/semantics.md, 3.
    """
    where, nearest, float32, full_like = arithmetic
    high, low = where(high < 0.0, 0.0, high), where(low > 0.0, 0.0, low)
    if spec.symmetric:
        scale: T = symmetric_scale(high, low, spec, arithmetic=arithmetic)
        return scale, full_like(scale, 0.0)
    scale = float32(float32(high - low) / spec.steps)
    empty = scale < SMALLEST_SCALE
    scale = where(empty, 1.0, scale)
    qmin = float(spec.qmin)
    zero_point = nearest(float32(qmin - float32(low / scale)))
    return scale, where(empty, qmin, zero_point)


def ulq_qparams(clip: Clip, spec: ActivationSpec) -> QParams:
    """Turn a range into a scale and a zero point that represents 0 exactly.

    With hi = max(clip.max, 0) and lo = min(clip.min, 0):
        asymmetric: scale = (hi - lo) / (2^n - 1), zero_point = round(qmin - lo / scale);
                    scale = 1 and zero_point = qmin if that scale is below SMALLEST_SCALE
        symmetric:  the scale of arq.symmetric_scale, zero_point = 0

    Args:
        clip: a valid range, scalars.
        spec: the grid.
    Returns:
        float32 scalars.
    Gradient: none; ulq_quantize carries the gradients of the range.
    Source: docs/semantics.md, 3.

    >>> ulq_qparams(Clip(torch.tensor(3.0), torch.tensor(-1.25)), ActivationSpec())
    QParams(scale=tensor(0.0167), zero_point=tensor(-53.))
    """
    return QParams(*range_scale(clip.max.detach(), clip.min.detach(), spec))


def ulq_quantize(x: Tensor, clip: Clip, spec: ActivationSpec) -> tuple[Tensor, QParams]:
    """Quantize x within a learned range to integer-valued float32, with ULQ's gradients.

    n = clamp(round(x / scale), qmin - zero_point, qmax - zero_point);  the input used is
    n * scale, with scale and zero_point from ulq_qparams(clip)

    Args:
        x: float32, any shape.
        clip: a valid range (see resolve_clip), scalars.
        spec: the grid.
    Returns:
        n, float32 of x's shape, and the QParams.
    Gradient: with respect to y = n * scale and its upstream g, where
        upper = x > scale * (qmax - zero_point), lower = x < scale * (qmin - zero_point),
        v = clip.max/scale on upper, clip.min/scale on lower, x/scale elsewhere,
        e = (round(v) - v) / (2^n - 1):
        x: g where neither upper nor lower; clip.max: sum(g * (e + upper));
        clip.min: sum(g * (lower - e)).
    Source: docs/semantics.md, 3; AMCT ulq_quantize.
    """
    qparams = ulq_qparams(clip, spec)
    integers = quantize_centered(x.detach(), qparams, spec)
    return with_ulq_gradients(integers, x, clip, qparams=qparams, spec=spec), qparams


def with_ulq_gradients(
    integers: Tensor, x: Tensor, clip: Clip, *, qparams: QParams, spec: ActivationSpec
) -> Tensor:
    """Return integers that x was rounded to, with the gradients of ulq_quantize at x.

    Args:
        integers: float32 of x's shape, relative to the zero point; by any rounding of x.
        x: float32, finite.
        clip: a valid range, scalars.
        qparams: the scale and zero point of the integers.
        spec: the grid.
    Returns:
        integers, without negative zeros.
    Gradient: as ulq_quantize.
    Source: docs/semantics.md, 3.
    """
    surrogate = _ulq_surrogate(x, clip, qparams, spec)
    return straight_through(integers, surrogate / qparams.scale)


def _ulq_surrogate(x: Tensor, clip: Clip, qparams: QParams, spec: ActivationSpec) -> Tensor:
    """Return an expression in x, clip.max and clip.min that has the derivatives of ulq_quantize."""
    scale, zero_point = qparams
    fixed = x.detach()
    upper = fixed > scale * (spec.qmax - zero_point)
    lower = fixed < scale * (spec.qmin - zero_point)
    inside = torch.where(upper | lower, torch.zeros_like(x), x)
    v = torch.where(upper, clip.max.detach(), torch.where(lower, clip.min.detach(), fixed)) / scale
    e = (torch.round(v) - v) / spec.steps
    return inside + clip.max * (e + upper) + clip.min * (lower.to(e.dtype) - e)
