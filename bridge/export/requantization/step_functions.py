"""Equality of float and integer requantization, decided at the thresholds of one of them.

Hypothesis. For one output channel and integer accumulators |acc| <= bound < 2^24,

    float:    y = float32(acc) * rescale (+ shift), clamped to [low, high]
              code = clamp(round(y / scale) + zero_point, qmin, qmax)
    integer:  code = clamp(round(float32(acc + offset) * multiplier) + zero_point, qmin, qmax),
              clamped to [code_low, code_high]

where every operation is in float32 and rounds once, half to even.

Claim. Both give the same code for every accumulator if they do at -bound, at bound, and on both
sides of each threshold of the float form (at most 255 thresholds for 8 bits).

Why. Rounding, clamping and multiplication by a constant are monotone, so both forms are monotone
step functions of acc. Between two neighbouring thresholds the float form is constant; a monotone
function that has this value at both ends has it everywhere between.

The integer form is what QLinearConv and QLinearMatMul compute. In ONNX Runtime, as measured:

- acc is int32 and includes the operator's bias. It is converted to the nearest float32, and the
  product is rounded to float32 once. Multipliers may be negative, zero, subnormal, or so large
  that the product is infinite.
- multiplier = float32(float32(x_scale * w_scale) / y_scale) for each w_scale; with x_scale and
  y_scale 1 it is w_scale itself.
- The product is clamped to [qmin - zero_point, qmax - zero_point] before the zero point is added
  in integers, so nothing overflows.
- Input and output have the same type: both uint8 or both int8. QLinearMatMul takes no bias.
- On x86 processors without VNNI, acc itself may be wrong: the products of two neighbouring inputs
  are summed in 16 bits and saturate at 32767. That depends on the weights, not on requantization.
"""

from dataclasses import dataclass, replace

import numpy as np

from bridge.export.graph.constants import Array
from qatfunc.limits import EXACT_FLOAT32

EXACT_BOUND = EXACT_FLOAT32 - 1
"""Largest |acc|, 2^24 - 1: float32 represents every integer up to 2^24 exactly."""

_GUESS_BITS = 21
"""Relative error of a guessed threshold, 2^-21; a worse guess costs time, not correctness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The integer range and the zero point of a quantizer.

    Args:
        zero_point: the code of 0.0.
        qmin: smallest code.
        qmax: largest code, at most 255 above qmin.
    Raises:
        ValueError: the range is empty or wider than 8 bits, or the zero point outside it.
    """

    zero_point: int
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        if not 0 < self.qmax - self.qmin <= 255:
            raise ValueError(f"qmin, qmax must span 1 to 255 steps, got {self.qmin}, {self.qmax}")
        if not self.qmin <= self.zero_point <= self.qmax:
            raise ValueError(
                f"zero_point must lie in [{self.qmin}, {self.qmax}], got {self.zero_point}"
            )

    def codes(self, values: Array) -> Array:
        """Round, add the zero point and saturate.

        code = clamp(round(values) + zero_point, qmin, qmax)

        Args:
            values: float32, x / scale of any shape; may be infinite, not NaN.
        Returns:
            int16 codes of the same shape.
        """
        low, high = self.qmin - self.zero_point, self.qmax - self.zero_point
        return np.clip(np.rint(values), low, high).astype(np.int16) + np.int16(self.zero_point)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatSteps:
    """Rescaling, activation and QuantizeLinear in float32: a step function per channel.

        y = float32(acc) * rescale (+ shift), clamped to [low, high]
        code = clamp(round(y / scale) + zero_point, qmin, qmax)

    Args:
        rescale: float32 (channels,), any sign; scale_x * scale_w of a layer.
        shift: float32 (channels,), added after rescaling; None for no addition.
        low: smallest output of the activation; -inf without one.
        high: largest output of the activation; inf without one.
        scale: of the quantizer, converted to float32.
        grid: integer range and zero point of the quantizer.
    Raises:
        TypeError: rescale or shift is not float32.
        ValueError: a shape is wrong, rescale or shift is not finite, low exceeds high, or scale
            is not positive and finite.
    """

    rescale: Array
    shift: Array | None = None
    low: float = -np.inf
    high: float = np.inf
    scale: float
    grid: Grid

    def __post_init__(self) -> None:
        _check_channels("rescale", self.rescale)
        if self.shift is not None:
            _check_channels("shift", self.shift)
            if self.shift.shape != self.rescale.shape:
                raise ValueError(
                    f"shift must have rescale's shape {self.rescale.shape}, got {self.shift.shape}"
                )
        if not self.low <= self.high:
            raise ValueError(f"low must not exceed high, got {self.low} and {self.high}")
        if not 0 < np.float32(self.scale) < np.inf:
            raise ValueError(f"scale must be positive and finite in float32, got {self.scale}")

    def codes(self, acc: Array) -> Array:
        """Requantize accumulators.

        Args:
            acc: integers, (n,) shared by all channels, or (channels, n).
        Returns:
            int16 codes (channels, n).
        """
        with np.errstate(over="ignore"):
            y = acc.astype(np.float32) * self.rescale[:, None]
            if self.shift is not None:
                y += self.shift[:, None]
            return self._quantize(y)

    @property
    def code_range(self) -> tuple[int, int]:
        """The codes of low and high. Clamping y to [low, high] clamps the code to these."""
        with np.errstate(over="ignore"):
            first, last = self._quantize(np.array([-np.inf, np.inf], np.float32))
        return int(first), int(last)

    def take(self, channels: Array) -> "FloatSteps":
        """Select channels.

        Args:
            channels: integer indices (n,), with repetitions if wanted.
        Returns:
            the step functions of these channels.
        """
        shift = None if self.shift is None else self.shift[channels]
        return replace(self, rescale=self.rescale[channels], shift=shift)

    def _quantize(self, y: Array) -> Array:
        clamped = np.clip(y, np.float32(self.low), np.float32(self.high))
        return self.grid.codes(clamped / np.float32(self.scale))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntegerSteps:
    """QLinearConv or QLinearMatMul and an integer Clip: a step function per channel.

        code = clamp(round(float32(acc + offset) * multiplier) + zero_point, qmin, qmax),
               clamped to [code_low, code_high]

    Args:
        multiplier: float32 (channels,), the operator's w_scale where x_scale and y_scale are 1.
        offset: signed integers (channels,), added to the operator's int32 bias.
        code_low: smallest code of the Clip.
        code_high: largest code of the Clip.
        grid: integer range and zero point of the operator's output.
    Raises:
        TypeError: multiplier is not float32, or offset not a signed integer.
        ValueError: a multiplier is not finite, the shapes differ or code_low exceeds code_high.
    """

    multiplier: Array
    offset: Array
    code_low: int
    code_high: int
    grid: Grid

    def __post_init__(self) -> None:
        _check_channels("multiplier", self.multiplier)
        if self.offset.dtype.kind != "i":
            raise TypeError(f"offset must be signed integers, got {self.offset.dtype}")
        if self.offset.shape != self.multiplier.shape:
            raise ValueError(
                f"offset must have multiplier's shape {self.multiplier.shape}, "
                f"got {self.offset.shape}"
            )
        if self.code_low > self.code_high:
            raise ValueError(
                f"code_low must not exceed code_high, got {self.code_low} and {self.code_high}"
            )

    def codes(self, acc: Array) -> Array:
        """Requantize accumulators.

        Args:
            acc: integers, (n,) shared by all channels, or (channels, n).
        Returns:
            int16 codes (channels, n).
        """
        sums = (acc + self.offset[:, None].astype(np.int64)).astype(np.float32)
        with np.errstate(over="ignore"):
            codes = self.grid.codes(sums * self.multiplier[:, None])
        return np.clip(codes, self.code_low, self.code_high)


def thresholds(steps: FloatSteps, bound: Array | int) -> Array:
    """Find the smallest accumulator that reaches each code.

    With a negative rescale the codes fall as acc grows; the threshold is then the smallest t for
    which acc = -t reaches the code.

    Args:
        steps: float step functions.
        bound: largest |acc|, one integer or (channels,); at most EXACT_BOUND.
    Returns:
        int64 (channels, qmax - qmin), for the codes qmin + 1 to qmax: -bound for codes that every
        accumulator reaches, bound + 1 for codes that no accumulator reaches.
    Raises:
        ValueError: a bound is negative or above EXACT_BOUND.
    """
    bounds = check_bound(bound, len(steps.rescale))
    ends = _sign(steps) * bounds[:, None] * np.array([-1, 1])
    first, last = np.split(steps.codes(ends), 2, axis=1)
    codes = np.arange(steps.grid.qmin + 1, steps.grid.qmax + 1)
    table = np.where(codes <= first, -bounds[:, None], bounds[:, None] + 1)
    rows, columns = np.nonzero((codes > first) & (codes <= last))
    table[rows, columns] = _bisect(steps.take(rows), codes[columns], bounds[rows])
    return table


def corners(steps: FloatSteps, bound: Array | int) -> Array:
    """List the accumulators that decide: a monotone function equal there is equal everywhere.

    Args:
        steps: float step functions.
        bound: as for `thresholds`.
    Returns:
        int64 (channels, n): both ends of the range, and both sides of each threshold.
    Raises:
        ValueError: a bound is negative or above EXACT_BOUND.
    """
    bounds = check_bound(bound, len(steps.rescale))[:, None]
    steps_at = thresholds(steps, bounds[:, 0])
    points = np.concatenate([-bounds, steps_at - 1, steps_at, bounds], axis=1)
    return np.clip(points, -bounds, bounds) * _sign(steps)


def prove(steps: FloatSteps, integer: IntegerSteps, bound: Array | int) -> Array:
    """Decide for each channel whether both forms give the same code for every accumulator.

    Args:
        steps: the float form.
        integer: the integer form.
        bound: as for `thresholds`.
    Returns:
        bool (channels,), True if and only if the codes are equal for all |acc| <= bound.
    Raises:
        ValueError: a bound is negative or above EXACT_BOUND, or the numbers of channels differ.
    """
    if len(steps.rescale) != len(integer.multiplier):
        raise ValueError(
            f"integer must have {len(steps.rescale)} channels, got {len(integer.multiplier)}"
        )
    points = corners(steps, bound)
    return (steps.codes(points) == integer.codes(points)).all(axis=1)


def check_bound(bound: Array | int, channels: int) -> Array:
    """Check a bound and broadcast it to the channels.

    Args:
        bound: integers, () or (channels,).
        channels: number of channels.
    Returns:
        int64 (channels,).
    Raises:
        TypeError: bound is not integer.
        ValueError: a bound is negative or above EXACT_BOUND, or its shape is wrong.
    """
    bounds = np.asarray(bound)
    if bounds.dtype.kind not in "iu":
        raise TypeError(f"bound must be integers, got {bounds.dtype}")
    if bounds.shape not in ((), (channels,)):
        raise ValueError(f"bound must have shape () or ({channels},), got {bounds.shape}")
    if ((bounds < 0) | (bounds > EXACT_BOUND)).any():
        raise ValueError(f"bound must lie in [0, {EXACT_BOUND}], got {bounds.ravel()[:4]}")
    return np.broadcast_to(bounds.astype(np.int64), (channels,))


def _bisect(steps: FloatSteps, codes: Array, bounds: Array) -> Array:
    """Find the threshold of one code a channel, which bound reaches and -bound does not."""
    sign = _sign(steps)[:, 0]

    def reached(acc: Array, which: Array) -> Array:
        return steps.take(which).codes((acc * sign[which])[:, None])[:, 0] >= codes[which]

    guess, every = _guess(steps, codes, bounds), np.arange(len(codes))
    at, before = reached(guess, every), reached(guess - 1, every)
    below = np.where(before, -bounds, np.where(at, guess - 1, guess))
    above = np.where(before, guess - 1, np.where(at, guess, bounds))
    error = 1 + (np.abs(guess) >> _GUESS_BITS)
    middle = np.clip(np.where(before, above - error, below + error), below + 1, above - 1)
    while (pending := np.flatnonzero(above - below > 1)).size:
        hit = reached(middle[pending], pending)
        yes, no = pending[hit], pending[~hit]
        above[yes], below[no] = middle[yes], middle[no]
        middle[pending] = (below[pending] + above[pending]) >> 1
    return above


def _guess(steps: FloatSteps, codes: Array, bounds: Array) -> Array:
    """Solve y / scale = code - zero_point - 1/2 for acc, in float64."""
    y = (codes - steps.grid.zero_point - 0.5) * float(np.float32(steps.scale))
    if steps.shift is not None:
        y = y - steps.shift
    acc = np.ceil(y / np.abs(steps.rescale.astype(np.float64)))
    return np.clip(acc, 1 - bounds, bounds).astype(np.int64)


def _sign(steps: FloatSteps) -> Array:
    return np.where(steps.rescale < 0, -1, 1)[:, None]


def _check_channels(name: str, values: Array) -> None:
    if values.dtype != np.float32:
        raise TypeError(f"{name} must be float32, got {values.dtype}")
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (channels,), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][:4]}")
