"""Share of channels with an integer requantization equal to the float one, and time to find it.

    python benchmarks/multipliers.py

Random channels with the distributions of real networks: log-uniform scales and accumulator bounds,
uint8 and int8, with and without an activation; the largest accumulators are 1 to 32 times as large
as the end of the quantizer's range.
"""

import itertools
import time

import numpy as np

from bridge.export.graph.constants import Array
from bridge.export.requantization.multipliers import fit_multipliers
from bridge.export.requantization.step_functions import EXACT_BOUND, FloatSteps, Grid, prove

CHANNELS = 2048
LAYERS = 10
MAX_ULPS = 64
SIZES = (1e4, 1e5, 1e6, 4e6, 1.7e7)
HEADER = f"{'':32} channels     as is  adjusted  unproven  most ulps"
GRIDS = (Grid(zero_point=0, qmin=0, qmax=255), Grid(zero_point=3, qmin=-128, qmax=127))


def main() -> None:
    """Print a line for each kind of layer, and one for each interval of accumulator bounds."""
    print(f"{HEADER}  s / {CHANNELS}")
    for shifted in (False, True):
        for low, high in ((-np.inf, np.inf), (0.0, 6.0)):
            results, bounds, seconds = _fit_layers(shifted, low, high)
            name = f"{'shift' if shifted else 'no shift'}, [{low}, {high}]"
            print(f"{_line(name, results)}{seconds:10.2f}", flush=True)
            for least, most in itertools.pairwise(SIZES):
                inside = (bounds >= least) & (bounds < most)
                print(_line(f"    |acc| to {least:.0e} ... {most:.0e}", results[:, inside]))


def _fit_layers(shifted: bool, low: float, high: float) -> tuple[Array, Array, float]:
    """Return (ulps, proven) of all channels, their accumulator bounds, and seconds per layer."""
    rng = np.random.default_rng(0)
    made = [_layer(rng, GRIDS[i % 2], shifted, low, high) for i in range(LAYERS)]
    started = time.perf_counter()
    results = [fit_multipliers(steps, bound, max_ulps=MAX_ULPS) for steps, bound in made]
    seconds = (time.perf_counter() - started) / LAYERS
    for fitted, (_, bound) in zip(results, made, strict=True):
        if not prove(fitted.steps, fitted.integer, bound)[fitted.proven].all():
            raise AssertionError("a channel is marked as proven, but its proof fails")
    columns = [np.stack([fitted.ulps, fitted.proven]) for fitted in results]
    return np.concatenate(columns, axis=1), np.concatenate([b for _, b in made]), seconds


def _line(name: str, results: Array) -> str:
    ulps, proven = results[0], results[1] > 0
    shares = [(proven & (ulps == 0)).mean(), (ulps != 0).mean(), (~proven).mean()]
    cells = "".join(f"{share:10.2%}" for share in shares)
    return f"{name:32}{ulps.size:9}{cells}{np.abs(ulps).max():11}"


def _layer(
    rng: np.random.Generator, grid: Grid, shifted: bool, low: float, high: float
) -> tuple[FloatSteps, Array]:
    """Draw a layer: a scale, and channels whose accumulators reach the end of the range."""
    scale = np.float32(np.exp(rng.uniform(np.log(1e-3), np.log(0.1))))
    bound = np.exp(rng.uniform(np.log(1e4), np.log(EXACT_BOUND), CHANNELS)).astype(np.int64)
    fill = np.exp(rng.uniform(np.log(1), np.log(32), CHANNELS))
    rescale = (fill * scale * 255 / bound).astype(np.float32)
    shift = None
    if shifted:
        rescale *= rng.choice(np.float32([1, -1]), CHANNELS)
        shift = (rng.normal(size=CHANNELS) * scale * 64).astype(np.float32)
    return FloatSteps(
        rescale=rescale, shift=shift, low=low, high=high, scale=float(scale), grid=grid
    ), bound


if __name__ == "__main__":
    main()
