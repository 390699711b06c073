"""How many channels have an integer form that equals the float one, and what finding it costs.

    python benchmarks/snap.py

Channels as networks have them: scales log-uniform, every bound, uint8 and int8, with and without
an activation; the largest accumulators reach from the end of the quantizer's range to 32 times it.
"""

import time

import numpy as np

from bridge.export.snap import snap
from bridge.export.steps import EXACT_BOUND, Grid, Steps, prove

CHANNELS = 2048
LAYERS = 2
GRIDS = (Grid(zero_point=0, qmin=0, qmax=255), Grid(zero_point=3, qmin=-128, qmax=127))


def main() -> None:
    """Print one line for each kind of layer."""
    print("                              proven as is    moved  unproven  most ulps  s / 2048")
    for shifted in (False, True):
        for low, high in ((-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0)):
            _report(shifted, low, high)


def _report(shifted: bool, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    results = []
    started = time.perf_counter()
    for index in range(LAYERS):
        steps, bound = _layer(rng, GRIDS[index % 2], shifted, low, high)
        results.append((snap(steps, bound, max_ulps=64), bound))
    seconds = (time.perf_counter() - started) / LAYERS
    for snapped, bound in results:
        if not prove(snapped.steps, snapped.integer, bound)[snapped.proven].all():
            raise AssertionError("a channel is marked as proven and is not")
    ulps = np.concatenate([snapped.ulps for snapped, _ in results])
    proven = np.concatenate([snapped.proven for snapped, _ in results])
    shares = [(proven & (ulps == 0)).mean(), (ulps != 0).mean(), (~proven).mean()]
    name = f"{'shift' if shifted else 'no shift'}, [{low}, {high}]"
    cells = "".join(f"{share:10.2%}" for share in shares)
    print(f"{name:32}{cells}{np.abs(ulps).max():11}{seconds:10.2f}", flush=True)


def _layer(
    rng: np.random.Generator, grid: Grid, shifted: bool, low: float, high: float
) -> tuple[Steps, np.ndarray]:
    """Draw a layer: a scale, and channels whose sums fill the quantizer's range and more."""
    scale = np.float32(np.exp(rng.uniform(np.log(1e-3), np.log(0.1))))
    bound = np.exp(rng.uniform(np.log(1e4), np.log(EXACT_BOUND), CHANNELS)).astype(np.int64)
    fill = np.exp(rng.uniform(np.log(1), np.log(32), CHANNELS))
    rescale = (fill * scale * 255 / bound).astype(np.float32)
    shift = None
    if shifted:
        rescale *= rng.choice(np.float32([1, -1]), CHANNELS)
        shift = (rng.normal(size=CHANNELS) * scale * 64).astype(np.float32)
    return Steps(
        rescale=rescale, shift=shift, low=low, high=high, scale=float(scale), grid=grid
    ), bound


if __name__ == "__main__":
    main()
