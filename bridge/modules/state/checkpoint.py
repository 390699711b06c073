"""A layer's state_dict, with AMCT's names.

Loaded from a checkpoint: the ranges, cur_batch and trained weight scales.
Written to it, but recomputed from these at loading: the other scales and all offsets.
While a layer is being calibrated its statistics are saved too, so that calibration after saving
and loading goes on as if it had not been interrupted.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bridge.config.reader import QATConfig, data_section, weight_section
from bridge.modules.paths import loading_strictly
from bridge.modules.state.inference import makes_state, ordinary
from qatfunc import Clip, calibration, resolve_clip, ulq_qparams
from qatfunc.calibration import LearnedRange
from qatfunc.ulq import valid_ends

_CALIBRATION_PREFIX = "calibration."
_ENDS = ("max", "min")
_FLOAT = (
    "The checkpoint is a float model's, without the state of quantized layers: load it before "
    "bridge.prepare_qat, or with strict=False and calibrate."
)


class RangeState(nn.Module):
    """The state of a module whose inputs have learned ranges.

    For each NAME in `ranges`:
        NAME_clip_max, NAME_clip_min: float32 (), the ends of the range, trained.
        NAME_clip_max_pre, NAME_clip_min_pre: float32 (), the last valid range.
        NAME_scale: float32 (1,), scale of the range; NaN before calibration.
        NAME_offset_deploy: int8 or int32 (1,), zero point of the range; 0 before calibration.
    For the module:
        cur_batch: int64 (), number of batches that calibration has seen.
    """

    ranges: ClassVar[tuple[str, ...]] = ("acts",)
    saves_count: ClassVar[bool] = True
    """Whether checkpoints hold cur_batch."""

    config: QATConfig
    cur_batch: Tensor

    @makes_state
    def _init_state(self, config: QATConfig, device: torch.device | str | None) -> None:
        self.config = config
        self._calibration: dict[str, calibration.CalibrationState] = {}
        self._batches = 0
        count = torch.zeros((), dtype=torch.int64, device=device)
        self.register_buffer("cur_batch", count, persistent=self.saves_count)
        # Not int16: gloo cannot broadcast it.
        offset_type = torch.int8 if config.activation.bits <= 8 else torch.int32
        for name in self.ranges:
            start = calibration.start_range(config.clip, device)
            for end in _ENDS:
                setattr(self, f"{name}_clip_{end}", nn.Parameter(getattr(start.clip, end)))
                self.register_buffer(f"{name}_clip_{end}_pre", getattr(start.previous, end))
            unset = torch.full((1,), torch.nan, dtype=torch.float32, device=device)
            self.register_buffer(f"{name}_scale", unset)
            zero = torch.zeros(1, dtype=offset_type, device=device)
            self.register_buffer(f"{name}_offset_deploy", zero)

    @property
    def calibrated(self) -> bool:
        """Whether the inputs' ranges are set, so that forwards quantize the inputs."""
        # Not _batches >= batch_num: a checkpoint may come from a layer with another batch_num.
        return self.config.clip is not None or (self._batches > 0 and not self._calibration)

    @property
    def do_init(self) -> bool:
        """Whether the inputs' ranges are not set yet (AMCT's name)."""
        return not self.calibrated

    @property
    def retrain_enable(self) -> bool:
        """Whether the layer is quantized (AMCT's name)."""
        return self.config.enabled

    @property
    def retrain_data_config(self) -> dict[str, Any]:
        """The input's configuration with every key present (AMCT's name)."""
        return data_section(self.config)

    @property
    def retrain_weight_config(self) -> dict[str, Any]:
        """The weight's configuration with every key present (AMCT's name)."""
        return weight_section(self.config)

    @property
    def act_num_bits(self) -> int:
        """Bits of the input's integers (AMCT's name)."""
        return self.config.activation.bits

    @property
    def wts_num_bits(self) -> int:
        """Bits of the weight's integers (AMCT's name)."""
        return self.config.weight.bits

    def train(self, mode: bool = True) -> Self:
        """Set the mode; entering eval mode recomputes the derived state."""
        super().train(mode)
        if not mode:
            self._count_copied_batches()
            self._refresh()
        return self

    def _count_copied_batches(self) -> None:
        """Update _batches if cur_batch was copied from a calibrated module, as by AveragedModel."""
        if not (self._batches or self._calibration or self.cur_batch.is_meta):
            count = int(self.cur_batch)
            self._batches = count if count >= self.config.search.batch_num else 0

    def _range(self, name: str, tensors: Mapping[str, Any] | None = None) -> LearnedRange:
        """Return the current range and the last valid one."""
        high, low = f"{name}_clip_max", f"{name}_clip_min"
        if tensors is not None:
            ends: Mapping[str, Any] = tensors
            previous = Clip(ends[f"{high}_pre"], ends[f"{low}_pre"])
            return LearnedRange(Clip(ends[high], ends[low]), previous)
        kept: Mapping[str, Any] = self._buffers
        current = Clip(self._parameter(high), self._parameter(low))
        return LearnedRange(current, Clip(kept[f"{high}_pre"], kept[f"{low}_pre"]))

    def _parameter(self, name: str) -> Any:
        """Return a parameter, from _parameters where possible: attribute access is slower."""
        table = self._parameters
        # A parametrized parameter is not in _parameters, nor is any parameter of a replica.
        return table[name] if name in table else getattr(self, name)

    def _resolve(self, name: str) -> Clip:
        current, previous = self._range(name)
        if self._valid_ends(current) is not None:
            return current
        return resolve_clip(current, previous, self.config.activation)

    def _valid_ends(self, clip: Clip) -> tuple[float, float] | None:
        """Return a range's ends as numbers, None if it is invalid or cannot be read."""
        # Under functional_call it may be a torch.func wrapper, whose values cannot be read.
        return valid_ends(clip, self.config.activation) if is_parameter(clip.max) else None

    @classmethod
    def derived_names(cls, *, learned_scale: bool) -> set[str]:  # noqa: ARG003
        """Return the names of the state that is computed from other state.

        Args:
            learned_scale: whether the weight's scales are trained.
        Returns:
            names of parameters and buffers.
        """
        return {f"{name}_{value}" for name in cls.ranges for value in ("scale", "offset_deploy")}

    def _derived(self) -> dict[str, Tensor]:
        """Compute the derived state from the current parameters."""
        if not self.calibrated:
            return {}
        values = {}
        for name in self.ranges:
            scale, zero_point = ulq_qparams(self._resolve(name), self.config.activation)
            values[f"{name}_scale"] = scale.reshape(1)
            values[f"{name}_offset_deploy"] = zero_point.reshape(1)
        return values

    @makes_state
    def _refresh(self) -> None:
        # New tensors: a state_dict taken earlier may share the old ones.
        for name, value in self._derived().items():
            parameter = self._parameters.get(name)
            if parameter is not None:
                parameter.data = value.to(parameter.dtype)
            elif name in self._buffers:  # a replica has no entries in _parameters
                old = self._buffers[name]
                self._buffers[name] = value if old is None else value.to(old.dtype)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self._refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, dtype in self._checkpoint_types().items():
            destination[prefix + name] = destination[prefix + name].to(dtype)
        for name, state in self._calibration.items():
            for field, value in state._asdict().items():
                destination[f"{prefix}{_CALIBRATION_PREFIX}{name}.{field}"] = value

    def _checkpoint_types(self) -> dict[str, torch.dtype]:
        """Return the dtypes of AMCT's checkpoints, for buffers of another dtype."""
        wide = self.config.activation.bits > 8
        return {f"{name}_offset_deploy": torch.int16 for name in self.ranges if wide}

    @makes_state
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._own_types(state_dict, prefix)
        start = prefix + _CALIBRATION_PREFIX
        seen = {
            k.removeprefix(start): state_dict.pop(k)
            for k in list(state_dict)
            if k.startswith(start)
        }
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        marker = "cur_batch" if self.saves_count else f"{self.ranges[0]}_scale"
        if prefix + marker not in state_dict:
            # The checkpoint of a float layer: the calibration stays as it is.
            if prefix + "weight" in state_dict and loading_strictly() and _FLOAT not in args[-1]:
                args[-1].append(_FLOAT)
            return
        self._calibration = {}
        for name in dict.fromkeys(key.partition(".")[0] for key in seen):
            fields = {f: seen[f"{name}.{f}"] for f in calibration.CalibrationState._fields}
            state = calibration.CalibrationState(**fields)
            self._calibration[name] = moved(state, self._range(name)[0].max.device)
        self._count_loaded_batches()
        args[-1].extend(self._unusable_ends(prefix) if self.calibrated else ())
        self._refresh()

    def _own_types(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Cast loaded tensors to the module's dtypes: load_state_dict(assign=True) does not."""
        for name, own in (*self._parameters.items(), *self._buffers.items()):
            stored = state_dict.get(prefix + name)
            if own is not None and isinstance(stored, Tensor):
                same = own.is_floating_point() or stored.dtype == own.dtype
                state_dict[prefix + name] = ordinary(stored if same else stored.to(own.dtype))

    @makes_state
    def _count_loaded_batches(self) -> None:
        """Derive the number of calibrated batches from loaded tensors."""
        for name in self.ranges:
            for end in _ENDS:
                previous = f"{name}_clip_{end}_pre"
                # AMCT saves NaN until a range has been used.
                if not getattr(self, previous).isfinite():
                    setattr(self, previous, getattr(self, f"{name}_clip_{end}").detach().clone())
        count = int(self.cur_batch) if self.saves_count else 0
        if self._calibration:
            count = max(int(state.batches) for state in self._calibration.values())
        elif self.config.clip is None:
            count = max(count, 1) if self._found_ranges(count) else 0
        self._batches = count
        device = getattr(self, f"{self.ranges[0]}_clip_max").device
        self.cur_batch = torch.full((), count, dtype=torch.int64, device=device)

    def _unusable_ends(self, prefix: str) -> list[str]:
        """Return the errors of loaded ranges that are invalid, without a last valid range."""
        names = [f"{name}_clip_{end}" for name in self.ranges for end in _ENDS]
        return [
            f"{prefix}{name} is {getattr(self, name).item()}, which is no end of a range, and the "
            "checkpoint has no last valid one either"
            for name in names
            if not getattr(self, f"{name}_pre").isfinite()
        ]

    def _found_ranges(self, count: int) -> bool:
        """Whether loaded tensors are those of a calibrated layer.

        AMCT's checkpoints do not state it. Their scale is NaN before the first batch; during
        calibration it is 1 with offset 0, which the range does not have by its formula.
        """
        for name in self.ranges:
            scale = getattr(self, f"{name}_scale")
            if bool(scale.isnan().any()):
                return count > 0
            one = bool((scale == 1.0).all() and (getattr(self, f"{name}_offset_deploy") == 0).all())
            if one and not any(map(self._stands_for_one, self._range(name))):
                return False
        return True

    def _stands_for_one(self, clip: Clip) -> bool:
        scale, zero_point = ulq_qparams(clip, self.config.activation)
        return scale.item() == 1.0 and zero_point.item() == 0.0


def is_parameter(x: Tensor) -> bool:
    """Return whether a tensor is a parameter, faster than isinstance alone.

    isinstance calls Parameter's metaclass, which is slow; the comparison of types comes first.

    Args:
        x: any tensor.
    Returns:
        False for a tensor by which functional_call replaces a parameter.
    """
    return type(x) is nn.Parameter or isinstance(x, nn.Parameter)


@makes_state
def moved(
    state: calibration.CalibrationState, device: torch.device | str
) -> calibration.CalibrationState:
    """Copy the statistics of a calibration to a device.

    Args:
        state: on any device.
        device: the target device.
    Returns:
        the state on that device.
    """
    return calibration.CalibrationState(*(ordinary(value).to(device) for value in state))
