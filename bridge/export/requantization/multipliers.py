"""Fitting the multiplier of an integer requantization that equals the float one.

Hypothesis. A float step function, and an integer form with a fixed offset whose float32
multiplier is to be found:

    float:    code = clamp(round((float32(acc) * rescale (+ shift)) / scale) + zero_point)
    integer:  code = clamp(round(float32(acc + offset) * multiplier) + zero_point)

Claim. The bisection over the magnitude of the multiplier is complete: it finds a multiplier that
gives the same code for every |acc| <= bound, or there is none for this offset.

Why. At each accumulator the integer code is monotone in the multiplier, so the multipliers that
are not too small form a half-line, and so do those that are not too large. An accumulator with a
wrong code shows on which side the solution lies; two accumulators that show opposite sides prove
that there is none. Accumulators are taken from step_functions.corners, where equality suffices.

If no multiplier fits, `rescale` itself is adjusted by a few ulps, in the fake-quant and the deploy
model alike. That mostly helps, because it changes which accumulators are ties.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.requantization.step_functions import (
    FloatSteps,
    IntegerSteps,
    check_bound,
    corners,
)
from qatfunc.limits import INT32_MAX

_INFINITY_BITS = 0x7F800000
"""float32 magnitudes have the order of their bit patterns; these are the bits of infinity."""

_NEAR_MULTIPLE = 1 / 64
"""Largest distance of shift / rescale from an integer at which a fit is tried.

At a distance r, all of 255 thresholds agree with a probability of about (1 - r)^255.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedMultipliers:
    """A float requantization and the integer one fitted to it.

    Args:
        steps: float form, with the adjusted rescales.
        integer: integer form.
        ulps: int64 (channels,), ulps by which the magnitude of rescale was adjusted; 0 where the
            channel is not proven.
        proven: bool (channels,), whether both forms are equal for every |acc| <= bound.
    """

    steps: FloatSteps
    integer: IntegerSteps
    ulps: Array
    proven: Array


def fit_multipliers(
    steps: FloatSteps, bound: Array | int, *, max_ulps: int = 64
) -> FittedMultipliers:
    """Find for each channel an integer step function that equals the float one.

    The multiplier starts at rescale / scale. Where none fits, the nearest rescale for which one
    fits replaces the given one. The offset is 0 without a shift.

    Args:
        steps: float form.
        bound: largest |acc|, one integer or (channels,); at most EXACT_BOUND.
        max_ulps: largest adjustment of a rescale, in ulps; 0 to adjust none.
    Returns:
        both forms, and the channels for which they are proven equal. With a shift these are few:
        see benchmarks/multipliers.py.
    Raises:
        ValueError: max_ulps is negative, or a bound is negative or above EXACT_BOUND.
    """
    if max_ulps < 0:
        raise ValueError(f"max_ulps must not be negative, got {max_ulps}")
    bounds = check_bound(bound, len(steps.rescale))
    rescale, multiplier = steps.rescale.copy(), _magnitude(_start_bits(steps), steps.rescale)
    offset, ulps = np.zeros((2, len(rescale)), np.int64)
    proven = np.zeros(len(rescale), np.bool_)
    for adjustment in _nearest_first(max_ulps):
        left = np.flatnonzero(~proven & _worth_trying(steps, adjustment))
        if not left.size:
            continue
        adjusted = steps.take(left)
        adjusted = replace(adjusted, rescale=_adjust(adjusted.rescale, adjustment))
        fit_multiplier, fit_offset, fits = _fit(adjusted, bounds[left])
        done = left[fits]
        rescale[done], multiplier[done] = adjusted.rescale[fits], fit_multiplier[fits]
        offset[done], ulps[done], proven[done] = fit_offset[fits], adjustment, True
    low, high = steps.code_range
    integer = IntegerSteps(
        multiplier=multiplier, offset=offset, code_low=low, code_high=high, grid=steps.grid
    )
    return FittedMultipliers(
        steps=replace(steps, rescale=rescale), integer=integer, ulps=ulps, proven=proven
    )


def _fit(steps: FloatSteps, bounds: Array) -> tuple[Array, Array, Array]:
    """Return multipliers, offsets, and which channels they fit."""
    points = corners(steps, bounds)
    codes = steps.codes(points)
    start = _start_bits(steps)
    candidates = _offsets(steps, bounds)
    bits, offset = start.copy(), np.zeros(len(start), np.int64)
    fits = np.zeros(len(start), np.bool_)
    for candidate in candidates.T:
        left = np.flatnonzero(~fits)
        if not left.size:
            break
        offset[left] = candidate[left]
        bits[left], fits[left] = _search(
            steps.take(left), points[left], codes[left], candidate[left]
        )
    return _magnitude(bits, steps.rescale), offset, fits


def _offsets(steps: FloatSteps, bounds: Array) -> Array:
    """List the offsets to try, (channels, n): round(shift / rescale) and its neighbours.

    With a rescale of 0 the code is constant; a large offset makes the integer form constant too.
    """
    if steps.shift is None:
        return np.zeros((len(bounds), 1), np.int64)
    room = (INT32_MAX - bounds)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ideal = np.rint(steps.shift / steps.rescale.astype(np.float64))[:, None]
    near = ideal + np.array([0, 1, -1])
    far = np.where(steps.shift < 0, -1, 1)[:, None] * room * np.array([0, 1, 1])
    zero = (steps.rescale == 0)[:, None]
    return np.clip(np.where(zero, far, near), -room, room).astype(np.int64)


def _search(steps: FloatSteps, points: Array, codes: Array, offset: Array) -> tuple[Array, Array]:
    """Return the bits of multipliers, and whether they give `codes` at the sums `points`."""
    low, high = steps.code_range
    way = np.sign(points + offset[:, None]) * np.where(steps.rescale < 0, -1, 1)[:, None]
    bits = _start_bits(steps)
    below, above = np.full_like(bits, -1), np.full_like(bits, _INFINITY_BITS)
    fits = np.zeros(len(bits), np.bool_)
    active, stride = np.arange(len(bits)), 1
    while active.size:
        integer = IntegerSteps(
            multiplier=_magnitude(bits[active], steps.rescale[active]),
            offset=offset[active],
            code_low=low,
            code_high=high,
            grid=steps.grid,
        )
        lack = codes[active] - integer.codes(points[active])
        # Where acc + offset is 0 the code does not depend on the multiplier.
        stuck = ((way[active] == 0) & (lack != 0)).any(axis=1)
        small, large = (lack * way[active] > 0).any(axis=1), (lack * way[active] < 0).any(axis=1)
        fits[active[~small & ~large & ~stuck]] = True
        below[active[small]], above[active[large]] = bits[active[small]], bits[active[large]]
        go = (small ^ large) & ~stuck & (above[active] - below[active] > 1)
        stepped = bits[active] + np.where(small, stride, -stride)
        middle = (below[active] + above[active]) >> 1
        inside = (stepped > below[active]) & (stepped < above[active])
        bits[active[go]] = np.where(inside, stepped, middle)[go]
        active, stride = active[go], stride * 2
    return bits, fits


def _start_bits(steps: FloatSteps) -> Array:
    with np.errstate(over="ignore"):
        ratio = np.abs(steps.rescale / np.float32(steps.scale))
    return _bits(np.minimum(ratio, np.finfo(np.float32).max))


def _worth_trying(steps: FloatSteps, ulps: int) -> Array:
    """Select the channels whose adjusted rescale exists and nearly divides the shift."""
    if not ulps:
        return np.full(steps.rescale.shape, True)
    bits = _bits(np.abs(steps.rescale))
    adjusted = bits + ulps
    possible = (bits > 0) & (adjusted > 0) & (adjusted < _INFINITY_BITS)
    if steps.shift is None:
        return possible
    magnitude = _magnitude(np.where(possible, adjusted, 1), steps.rescale)
    multiple = steps.shift / np.abs(magnitude).astype(np.float64)
    return possible & (np.abs(multiple - np.rint(multiple)) < _NEAR_MULTIPLE)


def _adjust(rescale: Array, ulps: int) -> Array:
    return _magnitude(_bits(np.abs(rescale)) + ulps, rescale)


def _bits(magnitude: Array) -> Array:
    return magnitude.astype(np.float32).view(np.int32).astype(np.int64)


def _magnitude(bits: Array, sign: Array) -> Array:
    return np.copysign(bits.astype(np.int32).view(np.float32), sign)


def _nearest_first(most: int) -> Iterator[int]:
    yield 0
    for ulps in range(1, most + 1):
        yield ulps
        yield -ulps
