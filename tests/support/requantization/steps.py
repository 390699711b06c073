"""Step functions of accumulators with many ties, every sign, shifts, activations and grids."""

import numpy as np

from bridge.export.requantization.step_functions import FloatSteps, Grid, IntegerSteps

Array = np.ndarray


def random_steps(
    rng: np.random.Generator,
    grid: Grid,
    *,
    channels: int,
    bound: int,
    slope: str,
    shift: str = "none",
    activation: tuple[float, float] = (-np.inf, np.inf),
) -> FloatSteps:
    """Fill in the numbers.

    Args:
        rng: their source.
        grid: of the codes.
        channels: how many.
        bound: largest |acc|; the codes are spread over such accumulators.
        slope: "ties": fractions a/b of the scale with small b, which rounding must decide;
            "wide": any; "flat": few steps, or none; "extreme": the ends of float32.
        shift: "none", "any", or "multiple" of the rescale, as well as float32 can say it.
        activation: its smallest and largest output.
    Returns:
        the step functions, of any sign and some with a rescale of 0.
    """
    scale = np.float32(np.exp(rng.uniform(-7, 1)))
    if slope == "extreme":
        scale = np.float32(10.0 ** rng.integers(-42, 38))
    if slope == "ties":
        ratio = rng.integers(1, 100, channels) / (2 * rng.integers(1, 1 + bound // 4, channels))
    else:
        reach = {"wide": (-2, 3), "flat": (-8, 0), "extreme": (-3, 8)}[slope]
        ratio = 128 / bound * np.exp(rng.uniform(*reach, channels))
    with np.errstate(over="ignore"):
        rescale = (ratio * float(scale)).astype(np.float32)
        rescale = np.minimum(rescale, np.finfo(np.float32).max)
        rescale *= rng.choice(np.float32([1, 1, -1, -1, 1, -1, 0]), channels)
        numbers = rng.normal(size=channels), rng.integers(-bound // 2, bound // 2 + 1, channels)
        shifts = {
            "none": None,
            "any": np.nan_to_num((numbers[0] * 64 * float(scale)).astype(np.float32)),
            "multiple": np.nan_to_num(rescale * numbers[1].astype(np.float32)),
        }
    low, high = activation
    return FloatSteps(
        rescale=rescale, shift=shifts[shift], low=low, high=high, scale=float(scale), grid=grid
    )


def perturbed(integer: IntegerSteps, rng: np.random.Generator) -> IntegerSteps:
    """Return a form that is the same, or nearly, or not at all."""
    bits = integer.multiplier.view(np.int32) + rng.integers(-2, 3, len(integer.offset))
    multiplier = bits.astype(np.int32).view(np.float32)
    kept = rng.random(len(multiplier)) < 0.3
    multiplier = np.where(kept | ~np.isfinite(multiplier), integer.multiplier, multiplier)
    return IntegerSteps(
        multiplier=multiplier,
        offset=integer.offset + rng.choice([0, 0, 0, 0, 1, -1], len(multiplier)),
        code_low=integer.code_low,
        code_high=integer.code_high,
        grid=integer.grid,
    )


def every(bound: int) -> Array:
    """Return all accumulators."""
    return np.arange(-bound, bound + 1)
