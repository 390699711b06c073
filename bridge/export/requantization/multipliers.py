"""Finding integer step functions that equal the float ones, moving multipliers if need be.

For one offset, the multipliers that are large enough at an accumulator form a half-line, and so do
those that are small enough. Each step of the search learns from the points that disagree which
way to go; both ways at once means that no multiplier fits. The search is complete: if it fails,
nothing but another rescale can help, and a few ulps of it mostly do, as they shift the ties.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.read.accumulator import INT32_MAX
from bridge.export.requantization.step_functions import IntegerSteps, Steps, check_bound, corners

_INFINITY_BITS = 0x7F800000
"""float32 magnitudes are ordered as their bits are, and this is one above the largest finite."""

_NEAR_MULTIPLE = 1 / 64
"""Off a multiple of rescale by a rest r, all of 255 steps agree in (1 - r)^255 of the cases."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapped:
    """Step functions in both forms.

    Args:
        steps: the float form, some of its rescales moved.
        integer: the integer form.
        ulps: int64 (channels,), by how many ulps the magnitude of rescale was moved; 0 where
            unproven.
        proven: bool (channels,), whether both forms are equal for every accumulator.
    """

    steps: Steps
    integer: IntegerSteps
    ulps: Array
    proven: Array


def snap(steps: Steps, bound: Array | int, *, max_ulps: int = 64) -> Snapped:
    """Find for each channel an integer step function that equals the float one.

    The multiplier is the nearest to rescale / scale that fits, or, where none does, the same for
    the nearest rescale that has one. The offset is 0 without a shift.

    Args:
        steps: the float form.
        bound: largest |acc|, for all channels or (channels,); at most steps.EXACT_BOUND.
        max_ulps: how far a rescale may be moved; 0 to keep all.
    Returns:
        both forms, with the channels that are proven. With a shift few are: see
        benchmarks/snap.py.
    Raises:
        ValueError: max_ulps is negative, or a bound is negative or above EXACT_BOUND.
    """
    if max_ulps < 0:
        raise ValueError(f"max_ulps must not be negative, got {max_ulps}")
    bounds = check_bound(bound, len(steps.rescale))
    rescale, multiplier = steps.rescale.copy(), _magnitude(_start_bits(steps), steps.rescale)
    offset, ulps = np.zeros((2, len(rescale)), np.int64)
    proven = np.zeros(len(rescale), np.bool_)
    for move in _nearest_first(max_ulps):
        left = np.flatnonzero(~proven & _worth_trying(steps, move))
        if not left.size:
            continue
        moved = steps.take(left)
        moved = replace(moved, rescale=_move(moved.rescale, move))
        fit_multiplier, fit_offset, fits = _fit(moved, bounds[left])
        done = left[fits]
        rescale[done], multiplier[done] = moved.rescale[fits], fit_multiplier[fits]
        offset[done], ulps[done], proven[done] = fit_offset[fits], move, True
    low, high = steps.code_range
    integer = IntegerSteps(
        multiplier=multiplier, offset=offset, code_low=low, code_high=high, grid=steps.grid
    )
    return Snapped(steps=replace(steps, rescale=rescale), integer=integer, ulps=ulps, proven=proven)


def _fit(steps: Steps, bounds: Array) -> tuple[Array, Array, Array]:
    """Return multipliers, offsets and whether they fit."""
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


def _offsets(steps: Steps, bounds: Array) -> Array:
    """List the offsets worth trying, (channels, n).

    With a rescale of 0 the one code is shift's; a far offset makes a constant of any code.
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


def _search(steps: Steps, points: Array, codes: Array, offset: Array) -> tuple[Array, Array]:
    """Return the bits of multipliers, and whether they give these codes at these points."""
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
        # Where the sum is 0 no multiplier changes the code, so a wrong one there ends the search.
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


def _start_bits(steps: Steps) -> Array:
    with np.errstate(over="ignore"):
        ratio = np.abs(steps.rescale / np.float32(steps.scale))
    return _bits(np.minimum(ratio, np.finfo(np.float32).max))


def _worth_trying(steps: Steps, ulps: int) -> Array:
    """Select the channels whose rescale can be moved, to where the shift is near a multiple."""
    if not ulps:
        return np.full(steps.rescale.shape, True)
    bits = _bits(np.abs(steps.rescale))
    moved = bits + ulps
    possible = (bits > 0) & (moved > 0) & (moved < _INFINITY_BITS)
    if steps.shift is None:
        return possible
    magnitude = np.abs(_magnitude(np.where(possible, moved, 1), steps.rescale)).astype(np.float64)
    multiple = steps.shift / magnitude
    return possible & (np.abs(multiple - np.rint(multiple)) < _NEAR_MULTIPLE)


def _move(rescale: Array, ulps: int) -> Array:
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
