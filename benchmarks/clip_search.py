"""Time of the clip search over ten million values, and of one pass over them per candidate."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qatfunc import ActivationSpec, SearchSpec, calibration


class SearchOutcome(NamedTuple):
    """Times of both searches, and whether their results agree."""

    one_pass_each: list[float]
    """CPU seconds of one pass for each candidate, for every round."""
    ours: list[float]
    """CPU seconds of calibration and search, for every round."""
    state_bytes: int
    same_winner: bool
    certified: bool


def one_pass_each(x: Tensor, spec: ActivationSpec, how: SearchSpec) -> Tensor:
    """Return the scale with the least squared error, quantizing all values by each candidate.

    The percentiles come from topk, which is much faster than sorting.
    """
    rank = max(1, x.numel() - int(x.numel() * how.max_percentile))
    high = torch.topk(x, rank).values[-1].clamp(min=0.0)
    low = torch.topk(x, rank, largest=False).values[-1].clamp(max=0.0)
    divisor = -spec.qmin if high < -low else spec.qmax
    best, winner = torch.inf, high
    for ratio in torch.arange(how.start, how.end, how.step):
        reach = torch.maximum(high, -low) * ratio
        step = reach / divisor
        error = ((x.clamp(-reach, reach) / step).round() * step - x).square().mean().item()
        if error < best:
            best, winner = error, step
    return winner


def search(count: int = 10_000_000, rounds: int = 3) -> SearchOutcome:
    """Run both searches alternately, and compare their results."""
    spec, how = ActivationSpec(), SearchSpec(method="ifmr")
    torch.manual_seed(0)
    x = torch.relu(torch.randn(count) + 0.5)

    def streamed() -> calibration.CalibrationState:
        return calibration.update(calibration.init(), x)

    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        _timed(times[0], lambda: one_pass_each(x, spec, how))
        _timed(times[1], lambda: calibration.search(streamed(), spec, how))
    state = streamed()
    found = calibration.search(state, spec, how)
    return SearchOutcome(
        one_pass_each=times[0],
        ours=times[1],
        state_bytes=sum(field.nbytes for field in state),
        same_winner=bool(found.scale == one_pass_each(x, spec, how)),
        certified=bool(found.certified),
    )


def _timed(times: list[float], function: Callable[[], Any]) -> None:
    started = time.process_time()
    function()
    times.append(time.process_time() - started)
