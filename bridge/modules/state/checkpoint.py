"""A layer's state under the reference's names: what checkpoints hold, and what of it is believed.

Trained or counted, hence read from a checkpoint: the ranges, cur_batch, learned weight scales.
Derived, hence written to a checkpoint but computed anew from the former: scales and offsets.
Beside these a checkpoint has what an unfinished calibration has seen, so that saving, loading and
continuing equals not having stopped.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bridge.config.reader import QATConfig, data_section, weight_section
from bridge.modules.paths import loading_strictly
from bridge.modules.state.inference import makes_state, ordinary
from qatfunc import Clip, calibration, resolve_clip, ulq_qparams
from qatfunc.ulq import valid_ends

_CALIBRATION_PREFIX = "calibration."
_ENDS = ("max", "min")
_FLOAT = (
    "The checkpoint is a float model's, without what quantized layers add: load it before "
    "bridge.prepare_qat, or with strict=False and calibrate."
)


class RangeState(nn.Module):
    """The state of a module whose inputs have learned ranges.

    State, for each NAME in `ranges`: NAME_clip_max, NAME_clip_min (trained) and NAME_clip_max_pre,
    NAME_clip_min_pre (the last valid range); NAME_scale and NAME_offset_deploy, derived from the
    range, NaN and 0 while there is none; cur_batch (batches calibrated); and while calibration is
    under way what it has seen.
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
        # No int16: gloo cannot broadcast it.
        offset_type = torch.int8 if config.activation.bits <= 8 else torch.int32
        high, low = config.clip or (1.0, -1.0)
        for name in self.ranges:
            for end, value in (("max", high), ("min", low)):
                scalar = torch.tensor(value, dtype=torch.float32, device=device)
                setattr(self, f"{name}_clip_{end}", nn.Parameter(scalar))
                self.register_buffer(f"{name}_clip_{end}_pre", scalar.clone())
            unset = torch.full((1,), torch.nan, dtype=torch.float32, device=device)
            self.register_buffer(f"{name}_scale", unset)
            zero = torch.zeros(1, dtype=offset_type, device=device)
            self.register_buffer(f"{name}_offset_deploy", zero)

    @property
    def calibrated(self) -> bool:
        """Whether the input's range is known, so that forwards quantize the input."""
        # Not by comparison with batch_num: a checkpoint may come from a layer with another one.
        return self.config.clip is not None or (self._batches > 0 and not self._calibration)

    @property
    def do_init(self) -> bool:
        """Whether the input's range is still to be found."""
        return not self.calibrated

    @property
    def retrain_enable(self) -> bool:
        """Whether the layer is quantized at all."""
        return self.config.enabled

    @property
    def retrain_data_config(self) -> dict[str, Any]:
        """The input's configuration, every key of it."""
        return data_section(self.config)

    @property
    def retrain_weight_config(self) -> dict[str, Any]:
        """The weight's configuration, every key of it."""
        return weight_section(self.config)

    @property
    def act_num_bits(self) -> int:
        """Width of the input's integers."""
        return self.config.activation.bits

    @property
    def wts_num_bits(self) -> int:
        """Width of the weight's integers."""
        return self.config.weight.bits

    def train(self, mode: bool = True) -> Self:
        """Set the mode; entering eval mode brings the derived state up to date."""
        super().train(mode)
        if not mode:
            self._count_copied_batches()
            self._refresh()
        return self

    def _count_copied_batches(self) -> None:
        """Notice that a calibrated module's tensors were copied here, as AveragedModel does."""
        if not (self._batches or self._calibration or self.cur_batch.is_meta):
            count = int(self.cur_batch)
            self._batches = count if count >= self.config.search.batch_num else 0

    def _range(self, name: str, tensors: Mapping[str, Any] | None = None) -> tuple[Clip, Clip]:
        """Return a range and the last valid one."""
        high, low = f"{name}_clip_max", f"{name}_clip_min"
        if tensors is not None:
            ends: Mapping[str, Any] = tensors
            return Clip(ends[high], ends[low]), Clip(ends[f"{high}_pre"], ends[f"{low}_pre"])
        kept: Mapping[str, Any] = self._buffers
        current = Clip(self._parameter(high), self._parameter(low))
        return current, Clip(kept[f"{high}_pre"], kept[f"{low}_pre"])

    def _parameter(self, name: str) -> Any:
        """Return a parameter from the module's table, which takes less time than an attribute."""
        table = self._parameters
        # A parametrized one is in no table, nor is any parameter of a replica.
        return table[name] if name in table else getattr(self, name)

    def _resolve(self, name: str) -> Clip:
        current, previous = self._range(name)
        if self._valid_ends(current) is not None:
            return current
        return resolve_clip(current, previous, self.config.activation)

    def _valid_ends(self, clip: Clip) -> tuple[float, float] | None:
        """Read one of the module's ranges, None where it has to be resolved."""
        # Under functional_call numbers may not be what can be read off a range.
        return valid_ends(clip, self.config.activation) if is_parameter(clip.max) else None

    @classmethod
    def derived_names(cls, *, learned_scale: bool) -> set[str]:  # noqa: ARG003
        """Return the names of the state that is computed from the rest.

        Args:
            learned_scale: whether the weight's scales are trained.
        Returns:
            names of parameters and buffers.
        """
        return {f"{name}_{value}" for name in cls.ranges for value in ("scale", "offset_deploy")}

    def _derived(self) -> dict[str, Tensor]:
        """Compute the derived state from the present parameters."""
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
        # New tensors, not new values in the old ones: these may be someone's checkpoint.
        for name, value in self._derived().items():
            parameter = self._parameters.get(name)
            if parameter is not None:
                parameter.data = value.to(parameter.dtype)
            elif name in self._buffers:  # a replica's parameters are in no table
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
        """Types of the reference's checkpoints, where a buffer has another one."""
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
        told_by = "cur_batch" if self.saves_count else f"{self.ranges[0]}_scale"
        if prefix + told_by not in state_dict:
            # A float layer's checkpoint says nothing about calibration.
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
        """Give loaded tensors the module's types, which load_state_dict(assign=True) would not."""
        for name, own in (*self._parameters.items(), *self._buffers.items()):
            stored = state_dict.get(prefix + name)
            if own is not None and isinstance(stored, Tensor):
                same = own.is_floating_point() or stored.dtype == own.dtype
                state_dict[prefix + name] = ordinary(stored if same else stored.to(own.dtype))

    @makes_state
    def _count_loaded_batches(self) -> None:
        """Find out from loaded tensors how far calibration had come."""
        for name in self.ranges:
            for end in _ENDS:
                previous = f"{name}_clip_{end}_pre"
                # NaN is the reference's mark: no range was used yet.
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
        """What is wrong with loaded ranges of which no valid end was kept."""
        names = [f"{name}_clip_{end}" for name in self.ranges for end in _ENDS]
        return [
            f"{prefix}{name} is {getattr(self, name).item()}, which is no end of a range, and the "
            "checkpoint has no valid one in its stead"
            for name in names
            if not getattr(self, f"{name}_pre").isfinite()
        ]

    def _found_ranges(self, count: int) -> bool:
        """Whether loaded tensors are those of a layer whose ranges were found.

        The reference's checkpoints do not say so. Its scale is NaN before the first batch, and 1
        with offset 0 while it calibrates, which is then not what the range stands for.
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
    """Return whether a tensor is a parameter, without asking its metaclass where that is plain.

    Args:
        x: any tensor.
    Returns:
        False for what functional_call puts in a parameter's place.
    """
    return type(x) is nn.Parameter or isinstance(x, nn.Parameter)


@makes_state
def moved(
    state: calibration.CalibrationState, device: torch.device | str
) -> calibration.CalibrationState:
    """Return what calibration has seen on another device.

    Args:
        state: on any device.
        device: the one wanted.
    Returns:
        the state there.
    """
    return calibration.CalibrationState(*(ordinary(value).to(device) for value in state))
