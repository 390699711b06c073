"""Learned input ranges of a module: calibration, use in forward, copies and export."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bridge.config.reader import QATConfig
from bridge.distributed import Group, PeerError, alone, exchange
from bridge.modules.compiling import constant_result, uncompiled
from bridge.modules.paths import layer_path, siblings
from bridge.modules.state.checkpoint import RangeState, is_parameter, moved
from bridge.modules.state.finite import check_finite
from bridge.modules.state.inference import makes_state, ordinary
from bridge.modules.state.recomputed import Passes
from bridge.modules.state.replicas import separate, shallow_copy
from bridge.modules.symbolic import run_untraced
from qatfunc import Clip, calibration, resolve_clip, ulq_qparams
from qatfunc.calibration import LearnedRange
from qatfunc.numerics.torch_internals import is_in_backward, transforms_are_active


class RangedModule(RangeState):
    """A module whose inputs are quantized within learned ranges.

    A forward writes state only in `_calibrate` and `_commit`.
    """

    exported: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors, besides the ranges, whose values the export writes as constants."""

    observes: bool = True
    """Whether calibration takes a batch's values into account, or only counts the batch."""

    _is_replica: bool = False  # nn.DataParallel sets it on replicas

    calibration_group: Group = None
    """The processes whose batches calibrate the ranges together; None for all processes."""

    def _init_ranges(self, config: QATConfig, device: torch.device | str | None) -> None:
        self.calibrating_in_eval = False
        self.quantizes_input = True
        self._warned = False
        self._passes = Passes()
        self._init_state(config, device)
        self._remember_tensors()

    def _where(self) -> str:
        """Return the module's name for a message."""
        return layer_path(self)

    @property
    def awaits_calibration(self) -> bool:
        """Whether the layer quantizes its input but has no range for it yet."""
        return self.config.enabled and self.quantizes_input and not self.calibrated

    def quantized_inputs(self, *arguments: Any) -> tuple[Any, ...]:
        """Return the tensors that a forward quantizes.

        Args:
            arguments: of forward.
        Returns:
            the arguments, of which the first len(ranges) are quantized.
        """
        return arguments

    def _current_clips(self, **inputs: Tensor) -> dict[str, Clip] | None:
        """Calibrate if due, and return the inputs' ranges, None while they are not calibrated."""
        if not self.quantizes_input:
            return None
        calibrated = self.calibrated
        if torch.compiler.is_compiling():
            return self._clips_of_a_call(inputs, calibrated)
        if is_in_backward():
            # Activation checkpointing recomputes a forward: with the same result, and no writes.
            passed = self._passes.recall(inputs)
            return None if passed else {name: self._resolve(name) for name in inputs}
        alike = not self.training or (calibrated and not self._passes.any)
        if alike or self.calibrating_in_eval or transforms_are_active():
            self._passes.latest(passed=not calibrated)
            return self._clips_of_a_call(inputs, calibrated)
        self._passes.begin(self._versions)
        clips = self._clips_of_a_call(inputs, calibrated)
        self._passes.record(inputs, passed=clips is None, step=self._versions)
        return clips

    @property
    def _versions(self) -> int:
        """Sum of the parameters' version counters, which every optimizer step increases."""
        return sum(p._version for p in self._parameters.values() if p is not None)

    def _clips_of_a_call(
        self, inputs: Mapping[str, Tensor], calibrated: bool
    ) -> dict[str, Clip] | None:
        if calibrated:
            if not self.training:
                return {name: self._resolve(name) for name in inputs}
            return {name: self._commit(name) for name in inputs}
        self._refuse_replica()
        if self.training or self.calibrating_in_eval:
            self._calibrate(inputs)
        elif not self._warned:
            # A write while compiling would fail the guard on this attribute: a recompilation.
            self._warned = not torch.compiler.is_compiling()
            seen = f"{self._batches} of {self.config.search.batch_num} batches seen"
            _warn_uncalibrated(self._where(), seen)
        return None

    def _commit(self, name: str) -> Clip:
        """Store a valid range as the last valid one, or replace an invalid range by that one."""
        current, previous = self._range(name)
        ends = self._valid_ends(current)
        if ends is not None:
            for stored, number in zip(previous, ends, strict=True):
                if stored.item() != number:
                    stored.fill_(number)  # unlike copy_, it needs no torch.no_grad
            return current
        if self._is_replica:  # the original has committed already
            return self._resolve(name)
        # The recomputation of activation checkpointing skips this, and must save as many tensors
        # for backward.
        with torch.no_grad():
            trained = LearnedRange(current, previous)
            found = calibration.resolve_range(trained, self.config.activation)
            for stored, value in zip(previous, found.previous, strict=True):
                stored.copy_(value)
            # Under functional_call the range is the caller's tensor, which must not change.
            if is_parameter(current.max):
                for stored, value in zip(current, found.clip, strict=True):
                    stored.copy_(value)
        return self._resolve(name)

    @uncompiled(reason="a layer calibrates: call bridge.calibrate(model, batches) first")
    @makes_state
    def _calibrate(self, inputs: Mapping[str, Tensor]) -> None:
        """Update the calibration with a batch; after the last one, set the ranges."""
        for x in inputs.values():
            if x.device != self.cur_batch.device:
                raise RuntimeError(
                    f"{self._where()}: its input is on {x.device}, the layer on "
                    f"{self.cur_batch.device}; move one of them"
                )
        self._calibration.update({name: self._taken(name, x) for name, x in inputs.items()})
        self._count_batch()
        if self._batches >= self.config.search.batch_num:
            merged = self._merged()
            for name in inputs:
                self._finish(name, merged[name])
            self._calibration.clear()

    def _taken(self, name: str, x: Tensor) -> calibration.CalibrationState:
        seen = self._calibration.get(name)
        if self.observes:
            return calibration.take(seen, ordinary(x), where=self._where, always_check=True)
        calibration.check_input(self._where, x, always=True)
        return seen or calibration.init(x.device)

    def _merged(self) -> dict[str, calibration.CalibrationState]:
        """Return the statistics of all ranks; this is the only collective of calibration."""
        if alone(self.calibration_group):
            return dict(self._calibration)
        host = {name: moved(state, "cpu") for name, state in self._calibration.items()}
        gathered = exchange((self._where(), host), self.calibration_group)
        paths, states = zip(*gathered, strict=True)
        if len(set(paths)) > 1:
            raise PeerError(f"the ranks of the group calibrate different layers: {paths}")
        return {
            name: moved(calibration.merge([seen[name] for seen in states]), self.cur_batch.device)
            for name in host
        }

    def _finish(self, name: str, state: calibration.CalibrationState) -> None:
        found = calibration.finish_range(state, self.config.activation, self.config.search)
        for stored, clip in zip(self._range(name), found, strict=True):
            stored.max.copy_(clip.max)
            stored.min.copy_(clip.min)

    def _count_batch(self) -> None:
        self._batches += 1
        self.cur_batch.fill_(self._batches)

    def _refuse_replica(self) -> None:
        if self._is_replica:
            raise RuntimeError(
                f"{self._where()} is not calibrated, and the state of a replica of nn.DataParallel "
                "is lost: call bridge.calibrate(model.module, batches) first, or train with "
                "DistributedDataParallel"
            )

    def _replicate_for_data_parallel(self) -> Self:
        """Return a replica for nn.DataParallel, which neither shares nor writes state."""
        if self.training and self.calibrated and self.quantizes_input and not self._is_replica:
            for name in self.ranges:
                self._commit(name)
        replica: Self = super()._replicate_for_data_parallel()
        separate(replica)
        replica._parameters.clear()
        return replica

    def __copy__(self) -> Self:
        """Return a module with the same weight and bias, and quantization state of its own."""
        copied = shallow_copy(self, shared=self._shared_parameters())
        copied._remember_tensors()
        return copied

    def _shared_parameters(self) -> set[str]:
        return set()

    # Export: torch.export runs forward on fake tensors, which have no data, but the file's scales
    # are constants computed from the real parameters. torch.export replaces the entries of
    # _parameters and _buffers, so `_real` keeps the real tensors.

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; keep a reference to a tensor that the export reads."""
        super().__setattr__(name, value)
        self._remember(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; remove_parametrizations calls this, not __setattr__."""
        super().register_parameter(name, param)
        self._remember(name, param)

    @classmethod
    def _is_exported(cls, name: str) -> bool:
        return name in cls.exported or any(name.startswith(f"{r}_clip_") for r in cls.ranges)

    def _remember(self, name: str, value: Any) -> None:
        if not self._is_exported(name):
            return
        if isinstance(value, Tensor):
            self.__dict__.setdefault("_real", {})[name] = value
        elif value is None:
            self.__dict__.get("_real", {}).pop(name, None)

    def _remember_tensors(self) -> None:
        tensors = {**self._parameters, **self._buffers}
        self.__dict__["_real"] = {
            n: t for n, t in tensors.items() if t is not None and self._is_exported(n)
        }

    @makes_state
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._remember_tensors()
        for name, state in self._calibration.items():
            self._calibration[name] = moved(state, self.cur_batch.device)
        return self

    @torch.no_grad()
    def _exported_range(self, name: str) -> tuple[float, int]:
        """Return the scale and zero point of an input as Python numbers, for run_untraced."""
        if not self.quantizes_input:
            return 1.0, 0
        spec = self.config.activation
        current, previous = self._range(name, self.__dict__["_real"])
        clip = resolve_clip(current, previous, spec)
        for end in ("max", "min"):
            # An infinite end is replaced by the last valid one, as in training. NaN means that
            # training diverged: refuse to export.
            trained = getattr(current, end)
            found = trained if trained.isnan() else getattr(clip, end)
            check_finite(f"{name}_clip_{end}", found)
        if not clip.max >= 0 >= clip.min:
            found = f"{clip.max.item()} and {clip.min.item()}"
            raise ValueError(f"cannot export: the ends of its range {name} are {found}")
        scale, zero_point = ulq_qparams(clip, spec)
        return scale.item(), int(zero_point.item())

    def _exported(self) -> Any:
        """Return the constants that the export writes, for run_untraced."""
        raise NotImplementedError

    @constant_result
    def _untraced_constants(self) -> Any:
        """Return `_exported`, computed outside tracing, also in torch.export's strict mode."""
        try:
            return run_untraced(self._exported)
        except ValueError as error:  # raised in another thread, whose stack has no model to name
            raise ValueError(f"{self._where()}: {error}") from error

    @constant_result
    def _check_exportable(self) -> None:
        if self.calibrated or not self.quantizes_input:
            return
        names = [
            path or type(module).__name__
            for path, module in siblings(self).items()
            if isinstance(module, RangedModule) and module.awaits_calibration
        ]
        raise RuntimeError(
            f"cannot export: not calibrated: {', '.join(names)}. Train for batch_num batches or "
            "call bridge.calibrate(model, batches) first"
        )


@constant_result
def _warn_uncalibrated(layer: str, seen: str) -> None:
    """Warn: in eager mode at the call, in compiled code once, while the call is traced."""
    warnings.warn(f"{layer} is not calibrated: its input passes unquantized ({seen})", stacklevel=3)


@constant_result
def in_onnx_export() -> bool:
    """Return whether torch.onnx.export is running, also inside torch.export's strict mode.

    Strict mode takes torch.onnx.is_in_onnx_export() for False; the decorator evaluates it.

    Returns:
        True during an export.
    """
    return torch.onnx.is_in_onnx_export()
