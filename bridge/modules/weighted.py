"""The base class of QAT layers with a weight: state, forward, checkpoints and export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bridge.config.reader import QATConfig, read_config
from bridge.distributed import Group
from bridge.modules.from_float.padded import pad_input
from bridge.modules.from_float.replacing import ReplacingLayer
from bridge.modules.paths import remember_paths
from bridge.modules.ranges import RangedModule, in_onnx_export
from bridge.modules.state.finite import check_finite
from bridge.modules.state.inference import makes_state, ordinary
from bridge.modules.symbolic import ExportConstants, export_quantized
from bridge.modules.weight_scales import PREVIOUS, TrainedScales
from bridge.operators import check_is_tensor
from qatfunc import Adopted, Clip, arq_qparams, resolve_scale
from qatfunc.linear_maps.channels import per_output
from qatfunc.numerics.autocast import autocasting, widened
from qatfunc.numerics.torch_internals import is_jit_tracing
from qatfunc.params import Params

_STARTED = "wts_scales_started"


class QATLayer(TrainedScales, ReplacingLayer):
    """A layer whose weight and input are quantized; a mixin of a torch layer class.

    Its forward is one call into qatfunc. State, besides that of the input's range "acts":
        wts_scales: the weight's scales, trained with ulq_retrain, otherwise computed by ARQ.
            Training starts from ARQ's scales with the first batch: cur_batch is then at least 1,
            or, where the input is not quantized, the checkpoint has wts_scales_started.
        wts_scales_pre: with ulq_retrain, the last valid scales.
        wts_offsets, wts_offsets_deploy: 0.
        s_rec_flag: whether wts_scales is 1 / scale.
    """

    exported = ("weight", "bias", "wts_scales", PREVIOUS, "frozen_wts_scales")
    out_channels: int
    wts_offsets: Tensor
    wts_offsets_deploy: Tensor
    s_rec_flag: Tensor
    adopted_natural: Tensor
    adopted_rescale: Tensor

    def _init_quantization(self, config: Mapping[str, Any] | None) -> None:
        read = read_config(config, channel_wise=self.operator.channel_wise)
        self.operator.check_layer(self, per_channel=read.weight.per_channel)
        self.quantizes_weight = True
        self._init_scales(read)

    @makes_state
    def _init_scales(self, read: QATConfig) -> None:
        device = self.weight.device
        self._init_ranges(read, device)
        self._started_without_input = False
        count = self.out_channels if read.weight.per_channel else 1
        unset = torch.full((count,), torch.nan, dtype=torch.float32, device=device)
        start = torch.ones_like(unset) if read.learned_scale else unset
        self.wts_scales = nn.Parameter(start, requires_grad=read.learned_scale)
        if read.learned_scale:
            self._hold_previous(start.clone())
        self.wts_offsets = nn.Parameter(unset.clone(), requires_grad=False)
        zeros = torch.zeros(count, dtype=torch.int8, device=device)
        self.register_buffer("wts_offsets_deploy", zeros)
        # Not bool: torch.optim.swa_utils.AveragedModel subtracts buffers.
        flag = torch.tensor(read.reciprocal_scale, dtype=torch.int8, device=device)
        self.register_buffer("s_rec_flag", flag)

    def extra_repr(self) -> str:
        """Return the float layer's description and that of the quantization, for repr."""
        how = "calibrated" if self.calibrated else f"{self._batches} batches calibrated"
        scale = "per channel" if self.config.weight.per_channel else "per tensor"
        quantized = (
            f"int{self.config.weight.bits} {scale} x int{self.config.activation.bits}, {how}"
        )
        return f"{super().extra_repr()}, {quantized if self.config.enabled else 'not quantized'}"

    def _quantized_forward(self, x: Tensor, **geometry: Any) -> Tensor:
        """Compute the layer; geometry is the operator's keyword arguments (stride, padding...)."""
        check_is_tensor(x, "input", self._where)
        if autocasting(x):
            with torch.autocast(x.device.type, enabled=False):
                return self._quantized_forward(widened(x), **geometry)
        (x,) = self.quantized_inputs(x)
        compiling = torch.compiler.is_compiling()
        recorded = compiling or is_jit_tracing()
        exported = recorded and in_onnx_export()  # the call is as slow as an operator: skip it
        weight = self._parameter("weight") if exported else self._effective_weight()
        self.operator.check_tensors(x, weight, self._where)
        # Under torch.jit.trace sizes are tensors, which cannot be compared.
        axis = 1 if self.operator.spatial else -1
        if (compiling or not recorded) and x.shape[axis] != getattr(self, self.input_size):
            self.operator.check_channels(x, self._input_channels(weight), self._where)
        if exported:
            return self._export_forward(x, **geometry)
        if self.config.learned_scale and not self._scales_started and self._changes_state:
            self._start_scales()
        clips = self._current_clips(acts=x)
        clip = None if clips is None else clips["acts"]
        if self._rule is not None:
            x, geometry = pad_input(self._rule, self, x, geometry)
        spec = self.config.layer
        if not self.quantizes_weight:
            spec = replace(spec, weight=None)
        params = self._params(weight, clip)
        if recorded:  # torch.compile cannot break its graph within a try block
            return self.operator.function(x, params, spec, **geometry)
        try:
            return self.operator.function(x, params, spec, **geometry)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # such as torch.OutOfMemoryError
                raise
            raise RuntimeError(
                f"{self._where()}: {error}; the input has shape {tuple(x.shape)} on {x.device}, "
                f"the weight {tuple(weight.shape)} on {weight.device}"
            ) from error

    def _input_channels(self, weight: Tensor) -> int:
        """Read the weight's shape: structured pruning may not update the layer's attribute."""
        if self._rule is not None and self._rule.weight is not None:
            channels: int = getattr(self, self.input_size)
            return channels
        if self.operator.transposed:
            return weight.shape[0]
        return weight.shape[1] * getattr(self, "groups", 1)

    def _params(self, weight: Tensor, clip: Clip | None) -> Params:
        params: dict[str, Any] = {"weight": weight}
        bias = self._effective_bias()
        if bias is not None:
            params["bias"] = bias
        if clip is not None:
            params["clip"] = clip
        if "frozen_wts_scales" in self._buffers:
            params["weight_scale"] = self.frozen_wts_scales
        elif self._scales_started:
            params["weight_scale"] = self._learned_scale(self._trained_scales())
        if "adopted_rescale" in self._buffers and not self.training:
            params["adopted"] = Adopted(self.adopted_natural, self.adopted_rescale)
        return params

    @makes_state
    def adopt_rescale(self, natural: Tensor, adjusted: Tensor) -> None:
        """Use an adjusted rescale in eval mode, on each channel until training changes its scales.

        Args:
            natural: float32 (out,) or (1,), the current rescale scale_x * scale_w.
            adjusted: float32, of the same shape, the rescale to use instead.
        """
        self.register_buffer("adopted_natural", ordinary(natural).to(self.weight.device))
        self.register_buffer("adopted_rescale", ordinary(adjusted).to(self.weight.device))

    @makes_state
    def freeze_weight_scales(self, *, frozen: bool = True, persistent: bool = True) -> None:
        """Freeze the weight's scales at their current values, or unfreeze them.

        Weights that grow beyond the range of frozen scales saturate.

        Args:
            frozen: True to freeze, False to unfreeze.
            persistent: whether checkpoints contain the frozen scales.
        """
        self._buffers.pop("frozen_wts_scales", None)
        if frozen:
            started = self._scales_started
            scale = self._learned_scale(self._trained_scales()) if started else self._arq_scale()
            self.register_buffer("frozen_wts_scales", scale.detach().clone(), persistent=persistent)
        self._remember_tensors()

    def _checkpoint_types(self) -> dict[str, torch.dtype]:
        return super()._checkpoint_types() | {"s_rec_flag": torch.bool}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self._save_previous(destination, prefix)
        if self._started_without_input:
            destination[prefix + _STARTED] = torch.tensor(True)

    @makes_state
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        started = bool(state_dict.pop(prefix + _STARTED, False))
        if f"{prefix}wts_scales" in state_dict:
            self._started_without_input = started
        held = state_dict.get(f"{prefix}frozen_wts_scales")
        if held is not None and "frozen_wts_scales" not in self._buffers:
            self.register_buffer("frozen_wts_scales", torch.ones_like(held))
        for name in ("adopted_natural", "adopted_rescale"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                self.register_buffer(name, torch.ones_like(stored))
            else:
                self._buffers.pop(name, None)
        previous = state_dict.pop(prefix + PREVIOUS, None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._remember_tensors()
        if self.config.learned_scale and f"{prefix}wts_scales" in state_dict:
            self._load_previous(previous)
        if self._scales_started:
            self._read_trained_scales(state_dict, prefix, errors=args[-1])

    @classmethod
    def derived_names(cls, *, learned_scale: bool) -> set[str]:
        """Return the names of the state that is computed from other state.

        Args:
            learned_scale: whether the weight's scales are trained.
        Returns:
            names of parameters and buffers.
        """
        names = super().derived_names(learned_scale=learned_scale)
        names |= {"wts_offsets", "wts_offsets_deploy", "s_rec_flag"}
        return names if learned_scale else names | {"wts_scales"}

    def _derived(self) -> dict[str, Tensor]:
        values = super()._derived()
        values["s_rec_flag"] = torch.full_like(self.s_rec_flag, self.config.reciprocal_scale)
        values["wts_offsets"] = torch.zeros_like(self.wts_offsets)
        values["wts_offsets_deploy"] = torch.zeros_like(self.wts_offsets_deploy)
        # Not self.weight: reading a parametrized weight may change it (spectral_norm).
        weight = self._parameters.get("weight")
        if not self.config.learned_scale and weight is not None and weight.numel():
            held = self._buffers.get("frozen_wts_scales")
            values["wts_scales"] = self._arq_scale() if held is None else held.clone()
        return values

    @property
    def _changes_state(self) -> bool:
        return self.training or (self.calibrating_in_eval and not self.calibrated)

    def _shared_parameters(self) -> set[str]:
        return {"weight", "bias"} | ({"wts_scales"} if self.config.learned_scale else set())

    def _arq_scale(self, weight: Tensor | None = None) -> Tensor:
        """Return ARQ's scales of a weight, the layer's own by default: (out,) or (1,)."""
        weight = self._whole_weight() if weight is None else weight
        transposed, groups = self.operator.transposed, getattr(self, "groups", 1)
        spec = self.config.weight
        qparams = arq_qparams(weight.detach(), spec, transposed=transposed, groups=groups)
        return per_output(qparams.scale, transposed=transposed, groups=groups)

    def _export_forward(self, x: Tensor, **geometry: Any) -> Tensor:
        self._check_exportable()
        if "weight" not in self._parameters:
            raise RuntimeError(
                f"{self._where()}: the weight is parametrized; remove the parametrization "
                "(torch.nn.utils.parametrize.remove_parametrizations) before the export"
            )
        constants, weight, bias = self._untraced_constants()
        weight = self.weight if weight is None else weight
        bias = self.bias if bias is None else bias
        if self._rule is not None:
            x, geometry = pad_input(self._rule, self, x, geometry)
        return export_quantized(self.operator, x, weight, bias, constants, **geometry)

    @torch.no_grad()
    def _exported(self) -> tuple[ExportConstants, Tensor | None, Tensor | None]:
        """Return the export's constants, and the effective weight and bias to write as constants.

        None stands for a weight or bias that is the layer's own parameter.
        """
        weight, bias = self._computed_parameters(self.__dict__["_real"])
        return self._export_constants(weight), weight, bias

    @torch.no_grad()
    def _export_constants(self, weight: Tensor | None = None) -> ExportConstants:
        """Return the current scales and zero points as Python numbers.

        Args:
            weight: the effective weight, None if it is the layer's own parameter.
        """
        real: dict[str, Tensor] = self.__dict__["_real"]
        if "frozen_wts_scales" in real:
            weight_scale = real["frozen_wts_scales"]
        elif self._scales_started:
            how = self.config.reciprocal_scale
            trained = resolve_scale(real["wts_scales"], real[PREVIOUS], reciprocal=how)
            weight_scale = self._learned_scale(trained)
        else:
            weight_scale = self._arq_scale(real["weight"] if weight is None else weight)
        check_finite("the weight", real["weight"] if weight is None else weight)
        check_finite("the bias", real.get("bias"))
        check_finite("the weight's scale", weight_scale, positive=True)
        scale_x, zero_point_x = self._exported_range("acts")
        return ExportConstants(
            scale_x=scale_x if self.quantizes_input else None,
            zero_point_x=zero_point_x,
            scale_w=weight_scale.tolist() if self.quantizes_weight else None,
            bits_x=self.config.activation.bits,
            weight_shape=tuple((real["weight"] if weight is None else weight).shape),
        )


def qat_layers(model: nn.Module) -> Iterator[tuple[str, RangedModule]]:
    """Iterate over the quantized layers of a model, with their paths.

    Args:
        model: any module.
    Returns:
        (path, layer) pairs in definition order; layers switched off by their config are left out.
    """
    for path, module in model.named_modules():
        if isinstance(module, RangedModule) and module.config.enabled:
            yield path, module


@contextmanager
def calibrating(model: nn.Module, group: Group = None) -> Iterator[None]:
    """Let a model's uncalibrated layers calibrate in eval mode.

    Args:
        model: any module; on exit every submodule has its train or eval mode again.
        group: the processes that calibrate together.
    """
    remember_paths(model, RangedModule)
    modes = {module: module.training for module in model.modules()}
    layers = [layer for _, layer in qat_layers(model)]
    model.eval()
    for layer in layers:
        layer.calibrating_in_eval, layer.calibration_group = True, group
    try:
        yield
    finally:
        for layer in layers:
            layer.calibrating_in_eval, layer.calibration_group = False, None
        for module, training in modes.items():
            module.training = training
