"""Reading a QAT configuration dict, which has AMCT's keys, into a checked record."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from qatfunc import ActivationSpec, LayerSpec, SearchSpec, WeightSpec
from qatfunc.limits import LARGEST_END
from qatfunc.spec import SearchMethod

_BITS = {"INT8": 8, "INT16": 16}
_ALGORITHMS = ("arq_retrain", "ulq_retrain")
_SEARCHES: tuple[SearchMethod, ...] = get_args(SearchMethod)
_DEFAULT_CLIP_MIN = -1.0
_LARGEST = (2.0 - 2.0**-23) * 2.0**127
"""The largest float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QATConfig:
    """A checked configuration of one layer.

    Args:
        enabled: whether the layer is quantized.
        weight: integer format of the weight.
        activation: integer format of the input.
        search: how calibration finds the input's range.
        clip: (max, min) of the input's range as configured, None to calibrate it.
        learned_scale: weight scales are trained (ulq_retrain), not computed by ARQ.
        reciprocal_scale: the trained parameter is 1 / scale.
        layer: both integer formats, from weight and activation.
    """

    enabled: bool
    weight: WeightSpec
    activation: ActivationSpec
    search: SearchSpec
    clip: tuple[float, float] | None
    learned_scale: bool
    reciprocal_scale: bool
    layer: LayerSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        layer = LayerSpec(weight=self.weight, activation=self.activation)
        object.__setattr__(self, "layer", layer)  # built once, not in every forward


def read_config(config: Mapping[str, Any] | None, *, channel_wise: bool) -> QATConfig:
    """Read a configuration dict.

    A value None stands for the default. Keys:
        retrain_enable: bool (True)
        distill: ignored
        retrain_data_config: dst_type "INT8" | "INT16"; batch_num int >= 1 (1); fixed_min bool;
            clip_max, clip_min numbers, clip_min only with clip_max; asymmetric bool (True);
            range_search "mse" | "ifmr" (AMCT has no such key; the default is the search that
            set_default_range_search names)
        retrain_weight_config: dst_type "INT8"; weights_retrain_algo "arq_retrain" |
            "ulq_retrain"; channel_wise bool; s_rec_flag bool

    Args:
        config: the dict, or None for all defaults.
        channel_wise: default for channel_wise, which depends on the layer's class.
    Returns:
        the checked configuration.
    Raises:
        TypeError: config is not a dict.
        ValueError: a key is unknown, or a value has a wrong type or is out of range.
    """
    if config is None:
        config = {}
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict, got {type(config).__name__}: {config!r}")
    # AMCT adds this key to a configuration that it has checked.
    config = {key: value for key, value in config.items() if key != "distill"}
    top = _Section("config", config, {"retrain_enable", _DATA, _WEIGHT})
    data = _Section(_DATA, top.section(_DATA), _DATA_KEYS)
    weight = _Section(_WEIGHT, top.section(_WEIGHT), _WEIGHT_KEYS)
    fixed_min = data.boolean("fixed_min", default=False)
    return QATConfig(
        enabled=top.boolean("retrain_enable", default=True),
        weight=WeightSpec(
            bits=_BITS[weight.choice("dst_type", ("INT8",))],
            per_channel=weight.boolean("channel_wise", default=channel_wise),
        ),
        activation=ActivationSpec(
            bits=_BITS[data.choice("dst_type", tuple(_BITS))],
            symmetric=not data.boolean("asymmetric", default=True),
            fixed_min=fixed_min,
        ),
        search=SearchSpec(
            method=data.choice("range_search", _searches()),  # type: ignore[arg-type]
            batch_num=data.positive("batch_num", default=1),
        ),
        clip=_read_clip(data, fixed_min=fixed_min),
        learned_scale=weight.choice("weights_retrain_algo", _ALGORITHMS) == "ulq_retrain",
        reciprocal_scale=weight.boolean("s_rec_flag", default=False),
    )


def set_default_range_search(method: SearchMethod) -> None:
    """Set which search the configurations without the key range_search stand for.

    Args:
        method: "mse", or "ifmr" as the reference; of the whole process, for layers built later.
    Raises:
        ValueError: there is no such search.
    """
    _defaults.range_search = SearchSpec(method=method).method


def data_section(read: QATConfig) -> dict[str, Any]:
    """Return a configuration's retrain_data_config with every key present.

    Args:
        read: from read_config.
    Returns:
        a new dict, from which read_config reads the same values.
    """
    high, low = read.clip or (None, None)
    return {
        "dst_type": f"INT{read.activation.bits}",
        "batch_num": read.search.batch_num,
        "fixed_min": read.activation.fixed_min,
        "clip_max": high,
        "clip_min": low,
        "asymmetric": not read.activation.symmetric,
        "range_search": read.search.method,
    }


def weight_section(read: QATConfig) -> dict[str, Any]:
    """Return a configuration's retrain_weight_config with every key present.

    Args:
        read: from read_config.
    Returns:
        a new dict, from which read_config reads the same values.
    """
    return {
        "dst_type": f"INT{read.weight.bits}",
        "weights_retrain_algo": _ALGORITHMS[read.learned_scale],
        "channel_wise": read.weight.per_channel,
        "s_rec_flag": read.reciprocal_scale,
    }


_DATA, _WEIGHT = "retrain_data_config", "retrain_weight_config"
_DATA_KEYS = {
    "dst_type",
    "batch_num",
    "fixed_min",
    "clip_max",
    "clip_min",
    "asymmetric",
    "range_search",
}
_WEIGHT_KEYS = {"dst_type", "weights_retrain_algo", "channel_wise", "s_rec_flag"}


@dataclass
class _Defaults:
    """The defaults that can be set."""

    range_search: SearchMethod = _SEARCHES[0]


_defaults = _Defaults()


def _searches() -> tuple[str, ...]:
    """Return the choices of range_search, the default first."""
    return tuple(sorted(_SEARCHES, key=lambda method: method != _defaults.range_search))


class _Section:
    """One dict of the configuration; errors name the key, the value and what was expected."""

    def __init__(self, name: str, values: Mapping[str, Any], known: set[str]) -> None:
        self.name = name
        self.values = values
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"{name} has no key {key!r}{hint} (known: {', '.join(sorted(known))})"
                )

    def section(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(key, "a dict")
        return value or {}

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, "True or False")
        return default if value is None else value

    def positive(self, key: str, *, default: int) -> int:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "an int of at least 1")
        return value

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= _LARGEST:  # NaN too
            raise self._wrong(key, "a number that float32 can hold")
        return float(value)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.values.get(key)
        if value is None:
            return choices[0]
        if value not in choices:
            raise self._wrong(key, " or ".join(map(repr, choices)))
        return str(value)

    def _wrong(self, key: str, wanted: str) -> ValueError:
        return ValueError(f"{self.name}[{key!r}] must be {wanted}, got {self.values[key]!r}")


def _read_clip(data: _Section, *, fixed_min: bool) -> tuple[float, float] | None:
    high, low = data.number("clip_max"), data.number("clip_min")
    if high is None:
        if low is not None:
            raise ValueError(f"{_DATA}['clip_min'] = {low} needs a clip_max too, got none")
        return None
    for key, end in (("clip_max", high), ("clip_min", low or 0.0)):
        if abs(end) > LARGEST_END:
            raise ValueError(
                f"{_DATA}[{key!r}] must be at most 2^64 (1.8e19) in magnitude, so that scales and "
                f"sums stay within float32, got {end:g}"
            )
    low = 0.0 if fixed_min else _DEFAULT_CLIP_MIN if low is None else low
    if not (high > 0.0 >= low):
        raise ValueError(
            f"{_DATA} needs clip_max > 0 >= clip_min, got clip_max={high}, clip_min={low}"
        )
    return high, low
