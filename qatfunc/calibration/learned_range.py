"""A learned range from calibration to training: start, take, finish, resolve.

    range = start_range()
    state = take(state, x, where="conv1")            # with every calibration batch
    range = finish_range(state, spec, how)           # after the last one
    range = resolve_range(range, spec)               # at every training step

Modules, modules as functions (bridge.functionalize) and qatfunc.model all use these functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc.calibration.inputs import check_input
from qatfunc.calibration.ranges import finish
from qatfunc.calibration.state import CalibrationState, init, update
from qatfunc.params import Clip
from qatfunc.spec import ActivationSpec, SearchSpec
from qatfunc.ulq import resolve_clip


class LearnedRange(NamedTuple):
    """A trained range, and the last valid one, which replaces it where it is invalid."""

    clip: Clip
    """The trained range."""
    previous: Clip
    """The last valid range."""


def start_range(
    ends: tuple[float, float] | None = None, device: torch.device | str | None = None
) -> LearnedRange:
    """Return the range before calibration.

    Args:
        ends: upper and lower end of a range that is given instead of calibrated; None for 1 and
            -1, which finish_range will replace.
        device: where the activation is.
    Returns:
        float32 scalars, four tensors of their own.
    """

    def clip() -> Clip:
        high, low = (
            torch.tensor(end, dtype=torch.float32, device=device) for end in ends or (1.0, -1.0)
        )
        return Clip(high, low)

    return LearnedRange(clip(), clip())


def take(
    seen: CalibrationState | None,
    x: Tensor,
    *,
    where: str | Callable[[], str],
    always_check: bool = False,
) -> CalibrationState:
    """Check a calibration batch, and add it to the statistics.

    Args:
        seen: the statistics so far; None if this is the first batch.
        x: float32, any shape.
        where: name of the layer for the message, or a function that returns it.
        always_check: as check_input's `always`.
    Returns:
        the new state.
    Raises:
        ValueError: x cannot be used for calibration, see unusable.
    """
    check_input(where, x, always=always_check)
    return update(init(x.device) if seen is None else seen, x)


def finish_range(seen: CalibrationState, spec: ActivationSpec, how: SearchSpec) -> LearnedRange:
    """Return the range with which training starts; it is also the last valid one.

    Args:
        seen: at least one batch.
        spec: the grid to search for.
        how: batch_num, candidates and percentiles.
    Returns:
        float32 scalars, four tensors of their own.
    Raises:
        ValueError: there was no batch.
    Source: docs/semantics.md, 4.
    """
    clip = finish(seen, spec, how)
    return LearnedRange(clip, Clip(clip.max.clone(), clip.min.clone()))


def resolve_range(trained: LearnedRange, spec: ActivationSpec) -> LearnedRange:
    """Return the range to quantize by, and the last valid range for the next step.

    Args:
        trained: the range after an optimizer step, and the last valid range before it.
        spec: says whether the lower end is fixed at 0.
    Returns:
        the range of ulq.resolve_clip; as the last valid one, without its gradient.
    Gradient: as ulq.resolve_clip.
    Source: docs/semantics.md, 3.
    """
    clip = resolve_clip(trained.clip, trained.previous, spec)
    return LearnedRange(clip, Clip(clip.max.detach(), clip.min.detach()))
