"""A learned range from its first batch to its use in training: start, take, finish, resolve.

    range = start_range()
    seen  = take(seen, x, where="conv1")             # each batch
    range = finish_range(seen, spec, how)            # after the last batch
    range = resolve_range(range, spec)               # at every training step

Everything that owns ranges (modules, modules as functions, qatfunc.model) takes these steps.
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
    """A trained range, and the valid one that replaces it where training made it meaningless."""

    clip: Clip
    """The range as it is trained."""
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
    """Check a batch, and take it into account.

    Args:
        seen: what calibration has seen so far, None for nothing.
        x: float32, any shape.
        where: name of the layer, for the message.
        always_check: as for check_input.
    Returns:
        the new state.
    Raises:
        ValueError: x is of no use to calibration, see inputs.unusable.
    """
    check_input(where, x, always=always_check)
    return update(init(x.device) if seen is None else seen, x)


def finish_range(seen: CalibrationState, spec: ActivationSpec, how: SearchSpec) -> LearnedRange:
    """Return the range with which training starts, which is its own last valid range.

    Args:
        seen: at least one batch.
        spec: the grid to search for.
        how: batch_num, candidates and percentiles.
    Returns:
        float32 scalars, four tensors of their own.
    Raises:
        ValueError: nothing was seen yet.
    Source: docs/semantics.md, 4.
    """
    clip = finish(seen, spec, how)
    return LearnedRange(clip, Clip(clip.max.clone(), clip.min.clone()))


def resolve_range(trained: LearnedRange, spec: ActivationSpec) -> LearnedRange:
    """Return the range to quantize by, and the last valid range for the next step.

    Args:
        trained: the range after an optimizer's step, and the last valid one before it.
        spec: says whether the lower end is fixed at 0.
    Returns:
        ulq.resolve_clip's range, and the same without its gradient.
    Gradient: as ulq.resolve_clip.
    Source: docs/semantics.md, 3.
    """
    clip = resolve_clip(trained.clip, trained.previous, spec)
    return LearnedRange(clip, Clip(clip.max.detach(), clip.min.detach()))
