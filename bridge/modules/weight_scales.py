"""Trained weight scales of a layer: validity, use in forward, checkpoints.

An optimizer step may make a scale zero, negative, infinite or NaN. Such a scale is replaced by the
last valid one, which a buffer holds as the parameter does (as 1 / scale with s_rec_flag).
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from bridge.modules.ranges import RangedModule
from bridge.modules.state.checkpoint import is_parameter
from bridge.modules.state.inference import makes_state
from qatfunc.lsq import resolve_scale, valid_scales
from qatfunc.numerics.concrete import reads_values
from qatfunc.numerics.torch_internals import is_in_backward

PREVIOUS = "wts_scales_pre"
"""The buffer of the last valid scales; in checkpoints only if some current scale is invalid."""


class TrainedScales(RangedModule):
    """A module with a weight whose scales may be trained."""

    wts_scales: Tensor
    wts_scales_pre: Tensor
    _started_without_input: bool

    def _arq_scale(self, weight: Tensor | None = None) -> Tensor:
        """Return ARQ's scales of a weight, the layer's own by default: (out,) or (1,)."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Set the mode; entering eval mode replaces invalid scales, as a training forward does."""
        super().train(mode)
        if not (mode or self._is_replica or self._has_valid_scales()):
            how = self.config.reciprocal_scale
            commit_scales(self.wts_scales, self.wts_scales_pre, reciprocal=how)
        return self

    def _has_valid_scales(self) -> bool:
        """Whether all trained scales are valid; this synchronizes with the device."""
        if not self._scales_started or self.wts_scales.is_meta:
            return True
        how = self.config.reciprocal_scale
        return bool(valid_scales(self.wts_scales, reciprocal=how).all())

    @property
    def _scales_started(self) -> bool:
        return self.config.learned_scale and (self._batches > 0 or self._started_without_input)

    def _trained_scales(self) -> Tensor:
        """Return valid scales, in the form of the parameter; store them in training mode."""
        # The recomputation of activation checkpointing has the same result, and no writes.
        again = not torch.compiler.is_compiling() and is_in_backward()
        keeps = self.training and not (again or self._is_replica)
        resolve = commit_scales if keeps else current_scales
        how = self.config.reciprocal_scale
        return resolve(self.wts_scales, self.wts_scales_pre, reciprocal=how)

    def _hold_previous(self, scales: Tensor | None) -> None:
        self.register_buffer(PREVIOUS, scales, persistent=False)
        self._remember(PREVIOUS, scales)

    def _learned_scale(self, stored: Tensor) -> Tensor:
        return 1.0 / stored if self.config.reciprocal_scale else stored

    def _replicate_for_data_parallel(self) -> Self:
        if self.training and self._scales_started and not self._is_replica:
            self._trained_scales()
        return super()._replicate_for_data_parallel()

    @makes_state
    def _start_scales(self) -> None:
        self._refuse_replica()
        self.wts_scales.copy_(self._learned_scale(self._arq_scale()))
        self.wts_scales_pre.copy_(self.wts_scales)
        if self.calibrated:
            self._count_batch()  # the range was configured, so calibration counts no batch
        elif not self.quantizes_input:
            self._started_without_input = True

    def _save_previous(self, destination: dict[str, Any], prefix: str) -> None:
        """Save the last valid scales only if a current one is invalid: AMCT has no such key."""
        if not self._has_valid_scales():
            destination[prefix + PREVIOUS] = self.wts_scales_pre.clone()

    def _load_previous(self, previous: Tensor | None) -> None:
        """Set the last valid scales to those of a checkpoint, by default to its current ones."""
        previous = self.wts_scales.detach() if previous is None else previous
        own = self.wts_scales_pre
        if own.is_meta:  # load_state_dict(assign=True) does not load this key
            own = torch.empty_like(previous)
            self._hold_previous(own)
        if not own.is_meta:
            own.copy_(previous)

    def _read_trained_scales(
        self, state_dict: Mapping[str, Any], prefix: str, *, errors: list[str]
    ) -> None:
        """Refuse scales of the other form (1 / scale or scale); initialize untrained ones."""
        reciprocal = bool(state_dict.get(f"{prefix}s_rec_flag", self.config.reciprocal_scale))
        if reciprocal != self.config.reciprocal_scale:
            errors.append(
                f"{prefix}wts_scales was trained with s_rec_flag={reciprocal}, the configuration "
                f"has {self.config.reciprocal_scale}"
            )
        counted = self._started_without_input or state_dict.get(f"{prefix}cur_batch", 1)
        self._start_loaded_scales(anew=not counted)

    def _start_loaded_scales(self, *, anew: bool) -> None:
        """Replace invalid loaded scales by the last valid ones, or else by ARQ's (anew: all)."""
        how = {"reciprocal": self.config.reciprocal_scale}
        loaded, previous = self.wts_scales.detach(), self.wts_scales_pre
        if anew or not bool((valid_scales(loaded, **how) & valid_scales(previous, **how)).all()):
            start = self._learned_scale(self._arq_scale())
            previous.copy_(torch.where(valid_scales(previous, **how), previous, start))
            previous.copy_(start if anew else resolve_scale(loaded, previous, **how))
            # A new tensor: a state_dict taken earlier may share the old one.
            self.wts_scales.data = previous.clone()


def current_scales(stored: Tensor, previous: Tensor, *, reciprocal: bool) -> Tensor:
    """Return the scales that a forward uses, in the form of the parameter.

    Args:
        stored: float32 (out,) or (1,), the parameter, or its replacement by functional_call.
        previous: the last valid scales, of the same shape.
        reciprocal: whether the parameter is 1 / scale.
    Returns:
        stored, with invalid scales replaced by previous; stored itself if its values can be read
        cheaply and are all valid.
    """
    if _is_read(stored) and bool(valid_scales(stored, reciprocal=reciprocal).all()):
        return stored
    return resolve_scale(stored, previous, reciprocal=reciprocal)


def commit_scales(stored: Tensor, previous: Tensor, *, reciprocal: bool) -> Tensor:
    """Overwrite invalid scales by the last valid ones, and store the result as the last valid.

    Args:
        stored: as current_scales's; a tensor given by functional_call is not written.
        previous: the last valid scales; overwritten.
        reciprocal: whether the parameter is 1 / scale.
    Returns:
        the scales to use, as current_scales's.
    """
    if _is_read(stored) and bool(valid_scales(stored, reciprocal=reciprocal).all()):
        previous.copy_(stored.detach())
        return stored
    # The recomputation of activation checkpointing skips this, and must save as many tensors for
    # backward.
    with torch.no_grad():
        valid = resolve_scale(stored, previous, reciprocal=reciprocal)
        previous.copy_(valid)
        if is_parameter(stored):
            stored.copy_(valid)
    return current_scales(stored, previous, reciprocal=reciprocal)


def _is_read(stored: Tensor) -> bool:
    # Under functional_call it may be a torch.func wrapper, whose values cannot be read.
    return is_parameter(stored) and reads_values(stored.data)
