"""What the QAT modules share: parameters, calibration, checkpoints and the export forward."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bridge.config import QATConfig, read_config
from bridge.export.symbolic import ExportConstants, export_quantized, run_untraced
from bridge.naming import layer_path, siblings
from bridge.targets import Operator, autocasting
from qatfunc import Clip, arq_qparams, calibration, resolve_clip, ulq_qparams
from qatfunc.channels import per_output
from qatfunc.exact import Params

_CALIBRATION_PREFIX = "calibration."
_EXPORTED = (
    "weight",
    "wts_scales",
    "acts_clip_max",
    "acts_clip_min",
    "acts_clip_max_pre",
    "acts_clip_min_pre",
)


class QATLayer(nn.Module):
    """A layer whose weight and input are quantized, mixed into a torch layer class.

    It owns the parameters and buffers and writes state back in `_calibrate` and `_commit` alone;
    what it computes is one call into qatfunc.

    State: acts_clip_max, acts_clip_min (trained range of the input), acts_clip_max_pre,
    acts_clip_min_pre (the last valid range), cur_batch (batches calibrated), wts_scales (with
    ulq_retrain; ARQ's scales hold until cur_batch counts a batch), and while calibration is under
    way what it has seen.
    """

    operator: ClassVar[Operator]
    weight: Tensor
    bias: Tensor | None
    acts_clip_max: Tensor
    acts_clip_min: Tensor
    acts_clip_max_pre: Tensor
    acts_clip_min_pre: Tensor
    cur_batch: Tensor

    def _init_quantization(self, config: Mapping[str, Any] | None) -> None:
        self.config: QATConfig = read_config(config, channel_wise=self.operator.channel_wise)
        per_channel = self.config.layer.weight.per_channel
        self.operator.check_layer(self, per_channel=per_channel)
        self.calibrating_in_eval = False
        self._warned = False
        self._calibration: calibration.CalibrationState | None = None
        self._batches = 0
        high, low = self.config.clip or (1.0, -1.0)
        device = self.weight.device
        for name, value in (("max", high), ("min", low)):
            scalar = torch.tensor(value, dtype=torch.float32, device=device)
            setattr(self, f"acts_clip_{name}", nn.Parameter(scalar))
            self.register_buffer(f"acts_clip_{name}_pre", scalar.clone())
        self.register_buffer("cur_batch", torch.zeros((), dtype=torch.int64, device=device))
        if self.config.learned_scale:
            count = self._arq_scale().numel() if self.weight.device.type != "meta" else 1
            self.wts_scales = nn.Parameter(torch.ones(count, device=device))
        self._remember_tensors()

    @property
    def calibrated(self) -> bool:
        """Whether the input's range is known, so that forwards quantize the input."""
        # Not by comparison with batch_num: a checkpoint may come from a layer with another one.
        return self.config.clip is not None or (self._batches > 0 and self._calibration is None)

    def extra_repr(self) -> str:
        """Return the float layer's description and the quantization's."""
        spec = self.config.layer
        how = "calibrated" if self.calibrated else f"{self._batches} batches calibrated"
        scale = "per channel" if spec.weight.per_channel else "per tensor"
        quantized = f"int{spec.weight.bits} {scale} x int{spec.activation.bits}, {how}"
        return f"{super().extra_repr()}, {quantized if self.config.enabled else 'not quantized'}"

    @classmethod
    def _copy_float(cls, mod: nn.Module, config: Mapping[str, Any] | None, **kwargs: Any) -> Self:
        """Build a layer on the parameters of a float one, by its hyperparameters."""
        if type(mod) is not cls.operator.float_class:
            raise cls.operator.from_float_error(
                f"{cls.__name__}.from_float takes a {cls.operator.float_class.__name__}, "
                f"got {type(mod).__name__}"
            )
        # Built on the meta device: nothing is allocated or drawn for parameters to be replaced.
        layer = cls(bias=mod.bias is not None, device="meta", config=None, **kwargs)
        layer.weight, layer.bias = mod.weight, mod.bias  # type: ignore[assignment]
        layer._init_quantization(config)
        return layer.train(mod.training)

    def _quantized_forward(self, x: Tensor, **geometry: Any) -> Tensor:
        """Compute the layer; geometry is what the operator takes beside its tensors."""
        if autocasting(x):
            with torch.autocast(x.device.type, enabled=False):
                return self._quantized_forward(x.to(torch.float32), **geometry)
        try:
            self.operator.check_tensors(x, self.weight, type(self).__name__)
        except (RuntimeError, ValueError):
            # Again with the path, which takes long to find.
            self.operator.check_tensors(x, self.weight, layer_path(self))
        if _in_onnx_export():
            return self._export_forward(x, **geometry)
        clip = self._current_clip(x)
        return self.operator.function(x, self._params(clip), self.config.layer, **geometry)

    def _params(self, clip: Clip | None) -> Params:
        params: dict[str, Any] = {"weight": self.weight}
        if self.bias is not None:
            params["bias"] = self.bias
        if clip is not None:
            params["clip"] = clip
        if self._scales_started:
            params["weight_scale"] = self._learned_scale(self.wts_scales)
        return params

    @property
    def _scales_started(self) -> bool:
        return self.config.learned_scale and self._batches > 0

    def _learned_scale(self, stored: Tensor) -> Tensor:
        return 1.0 / stored if self.config.reciprocal_scale else stored

    def _current_clip(self, x: Tensor) -> Clip | None:
        """Return the range to quantize x by, None while it is not known; calibrate if due."""
        if self.calibrated:
            if not self.training:
                return self._resolve()
            if self.config.learned_scale and not self._scales_started:
                self._start_scales()  # the range was given, so no batch is calibrated
                self._count_batch()
            return self._commit()
        if self.training or self.calibrating_in_eval:
            self._calibrate(x)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                f"{layer_path(self)} is not calibrated: its input passes unquantized "
                f"({self._batches} of {self.config.search.batch_num} batches seen)",
                stacklevel=2,
            )
        return None

    def _resolve(self) -> Clip:
        return resolve_clip(
            Clip(self.acts_clip_max, self.acts_clip_min),
            Clip(self.acts_clip_max_pre, self.acts_clip_min_pre),
            self.config.layer.activation,
        )

    def _commit(self) -> Clip:
        """Replace a range that training made meaningless by the last valid one, for good."""
        clip = self._resolve()
        with torch.no_grad():
            self.acts_clip_max_pre.copy_(clip.max)
            self.acts_clip_min_pre.copy_(clip.min)
            # Under functional_call the range belongs to the caller, who gets it unchanged.
            if isinstance(self.acts_clip_max, nn.Parameter):
                self.acts_clip_max.copy_(clip.max)
                self.acts_clip_min.copy_(clip.min)
        return self._resolve()

    @torch.no_grad()
    def _calibrate(self, x: Tensor) -> None:
        """Take a batch into account; after the last one, set the range."""
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{layer_path(self)}: calibration input has NaN or infinite values")
        if x.numel() == 0:
            raise ValueError(
                f"{layer_path(self)}: calibration input has no elements, its shape is "
                f"{tuple(x.shape)}"
            )
        if self.config.learned_scale and not self._scales_started:
            self._start_scales()
        state = self._calibration or calibration.init(x.device)
        self._calibration = calibration.update(state, x)
        self._count_batch()
        if self._batches >= self.config.search.batch_num:
            config = self.config
            clip = calibration.finish(self._calibration, config.layer.activation, config.search)
            for name, value in (("max", clip.max), ("min", clip.min)):
                getattr(self, f"acts_clip_{name}").copy_(value)
                getattr(self, f"acts_clip_{name}_pre").copy_(value)
            self._calibration = None

    def _count_batch(self) -> None:
        self._batches += 1
        self.cur_batch.fill_(self._batches)

    @torch.no_grad()
    def _start_scales(self) -> None:
        self.wts_scales.copy_(self._learned_scale(self._arq_scale()))

    def _arq_scale(self, weight: Tensor | None = None) -> Tensor:
        """Return ARQ's scales of a weight, the layer's own by default: (out,) or (1,)."""
        weight = self.weight if weight is None else weight
        transposed, groups = self.operator.transposed, getattr(self, "groups", 1)
        spec = self.config.layer.weight
        qparams = arq_qparams(weight.detach(), spec, transposed=transposed, groups=groups)
        return per_output(qparams.scale, transposed=transposed, groups=groups)

    # Checkpoints: what an unfinished calibration has seen is part of the state, so that saving,
    # loading and continuing equals not having stopped.

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._calibration is not None:
            for name, value in self._calibration._asdict().items():
                destination[f"{prefix}{_CALIBRATION_PREFIX}{name}"] = value

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        start = prefix + _CALIBRATION_PREFIX
        seen = {k: state_dict.pop(k) for k in list(state_dict) if k.startswith(start)}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}cur_batch" not in state_dict:
            return  # a float layer's checkpoint says nothing about calibration
        self._batches = int(self.cur_batch)
        self._calibration = None
        if seen:
            fields = {k.removeprefix(start): v.to(self.weight.device) for k, v in seen.items()}
            self._calibration = calibration.CalibrationState(**fields)

    # Export: torch.export runs forward on tensors without data, yet the scales in the file have
    # to be constants that belong to the weights as they are. So the tensors themselves are kept
    # beside the parameter table that torch.export replaces.

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute and remember the tensors the export needs."""
        super().__setattr__(name, value)
        self._remember(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter and remember it; removing a parametrization comes this way."""
        super().register_parameter(name, param)
        self._remember(name, param)

    def _remember(self, name: str, value: Any) -> None:
        if name in _EXPORTED and isinstance(value, Tensor):
            self.__dict__.setdefault("_real", {})[name] = value

    def _remember_tensors(self) -> None:
        tensors = {**self._parameters, **self._buffers}
        self.__dict__["_real"] = {n: tensors[n] for n in _EXPORTED if n in tensors}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._remember_tensors()
        if self._calibration is not None:
            moved = (v.to(self.weight.device) for v in self._calibration)
            self._calibration = calibration.CalibrationState(*moved)
        return self

    def _export_forward(self, x: Tensor, **geometry: Any) -> Tensor:
        if torch.compiler.is_dynamo_compiling():
            # Where the default exporter fails it tries again in torch.export's strict mode, which
            # would take the layer apart into what it is made of. The first error is what counts.
            raise RuntimeError("a quantized layer cannot be exported in torch.export's strict mode")
        refusal = self._why_not_exported()
        if refusal:
            raise RuntimeError(refusal)
        constants = run_untraced(self._export_constants)
        return export_quantized(self.operator, x, self.weight, self.bias, constants, **geometry)

    @torch.no_grad()
    def _export_constants(self) -> ExportConstants:
        """Scales and zero points of the parameters as they are now, as plain numbers."""
        spec = self.config.layer
        real: dict[str, Tensor] = self.__dict__["_real"]
        clip = resolve_clip(
            Clip(real["acts_clip_max"], real["acts_clip_min"]),
            Clip(real["acts_clip_max_pre"], real["acts_clip_min_pre"]),
            spec.activation,
        )
        if self._scales_started:
            weight_scale = self._learned_scale(real["wts_scales"])
        else:
            weight_scale = self._arq_scale(real["weight"])
        activation = ulq_qparams(clip, spec.activation)
        return ExportConstants(
            scale_x=activation.scale.item(),
            zero_point_x=int(activation.zero_point.item()),
            scale_w=weight_scale.tolist(),
            bits_x=spec.activation.bits,
            weight_shape=tuple(real["weight"].shape),
        )

    def _why_not_exported(self) -> str:
        if "weight" not in self._parameters:
            return (
                f"{layer_path(self)}: the weight is parametrized; remove the parametrization "
                "(torch.nn.utils.parametrize.remove_parametrizations) before the export"
            )
        if self.calibrated:
            return ""
        names = [
            path or type(module).__name__
            for path, module in siblings(self).items()
            if isinstance(module, QATLayer) and module.config.enabled and not module.calibrated
        ]
        return (
            f"cannot export: not calibrated: {', '.join(names)}. Train for batch_num batches or "
            "call bridge.calibrate(model, batches) first"
        )


@torch.compiler.assume_constant_result
def _in_onnx_export() -> bool:
    # The decorator lets torch.export's strict mode see the truth; it takes torch's function to
    # be False.
    return torch.onnx.is_in_onnx_export()


def qat_layers(model: nn.Module) -> Iterator[tuple[str, QATLayer]]:
    """Iterate over the quantized layers of a model, with their paths.

    Args:
        model: any module.
    Returns:
        (path, layer) pairs in definition order; layers switched off by their config are left out.
    """
    for path, module in model.named_modules():
        if isinstance(module, QATLayer) and module.config.enabled:
            yield path, module


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Let a model's uncalibrated layers calibrate in eval mode.

    Args:
        model: any module; its train and eval modes come back as they were.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [layer for _, layer in qat_layers(model)]
    model.eval()
    for layer in layers:
        layer.calibrating_in_eval = True
    try:
        yield
    finally:
        for layer in layers:
            layer.calibrating_in_eval = False
        for module, training in modes.items():
            module.training = training
