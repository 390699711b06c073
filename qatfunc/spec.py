"""Static descriptions of a quantized layer: frozen, hashable, without tensors."""

from dataclasses import dataclass, field
from typing import Literal, get_args

SearchMethod = Literal["mse", "ifmr"]
"""How calibration searches a range: both ends, or as the reference does."""

_MIN_BITS, _MAX_BITS = 2, 16


def _check_bool(kind: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{kind}: {name} must be True or False, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntSpec:
    """A signed integer grid: `qmin = -2^(bits-1)`, `qmax = 2^(bits-1) - 1`.

    Args:
        bits: width of the integers, 2 to 16.
    Raises:
        TypeError: bits is not an int.
        ValueError: bits is outside 2..16.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool):
            raise TypeError(f"bits must be an int, got {self.bits!r}")
        if not _MIN_BITS <= self.bits <= _MAX_BITS:
            raise ValueError(f"bits must be {_MIN_BITS} to {_MAX_BITS}, got {self.bits}")

    @property
    def qmin(self) -> int:
        """Smallest integer of the grid."""
        return -(1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        """Largest integer of the grid."""
        return (1 << (self.bits - 1)) - 1

    @property
    def steps(self) -> int:
        """Number of steps between qmin and qmax, `2^bits - 1`."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpec(IntSpec):
    """The grid of a weight: symmetric, with one scale per tensor or per output channel.

    Args:
        bits: width of the integers.
        per_channel: one scale for each output channel. The operator determines the axis, see
            `qatfunc.linear_maps.channels`.
    """

    per_channel: bool = True

    def __post_init__(self) -> None:
        IntSpec.__post_init__(self)  # slots: super() without arguments finds no class here
        _check_bool("WeightSpec", "per_channel", self.per_channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSpec(IntSpec):
    """The grid of an activation: one learned range per tensor.

    Args:
        bits: width of the integers; models with 8 and 16 can be deployed.
        symmetric: the zero point is 0; otherwise it is such that the range fills the grid.
        fixed_min: the lower end of the range stays at 0 (after a ReLU).
    """

    symmetric: bool = False
    fixed_min: bool = False

    def __post_init__(self) -> None:
        IntSpec.__post_init__(self)
        _check_bool("ActivationSpec", "symmetric", self.symmetric)
        _check_bool("ActivationSpec", "fixed_min", self.fixed_min)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """The search that gives an activation its first range.

    Args:
        method: "mse" searches both ends for the least mean squared error
            (calibration.both_ends); "ifmr" is AMCT's search (calibration.clip_search).
        batch_num: batches that calibration sees before the search, at least 1.
        max_percentile: share of the values at or below the one that is taken for the largest.
        min_percentile: share of the values at or above the one that is taken for the smallest.
        start: first candidate, as a fraction of the largest value; with "mse" of the smallest too.
        end: end of the candidates, exclusive as in torch.arange.
        step: distance between candidates.
        symmetric: of "ifmr" only: search ranges symmetric around 0; otherwise only the upper end
            varies. With "mse" the ranges are symmetric where ActivationSpec.symmetric is True.
    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is outside its range, or symmetric is False with "mse".
    """

    method: SearchMethod = "mse"
    batch_num: int = 1
    max_percentile: float = 0.999999
    min_percentile: float = 0.999999
    start: float = 0.7
    end: float = 1.3
    step: float = 0.01
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.batch_num, int) or isinstance(self.batch_num, bool):
            raise TypeError(f"batch_num must be an int, got {self.batch_num!r}")
        for name in ("max_percentile", "min_percentile", "start", "end", "step"):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"{name} must be a number, got {getattr(self, name)!r}")
        _check_bool("SearchSpec", "symmetric", self.symmetric)
        if self.method not in get_args(SearchMethod):
            wanted = " or ".join(map(repr, get_args(SearchMethod)))
            raise ValueError(f"method must be {wanted}, got {self.method!r}")
        if self.method == "mse" and not self.symmetric:
            raise ValueError(
                'symmetric=False is an option of method "ifmr"; with "mse" the ranges are those of '
                "ActivationSpec(symmetric=...)"
            )
        if self.batch_num < 1:
            raise ValueError(f"batch_num must be at least 1, got {self.batch_num}")
        for name in ("max_percentile", "min_percentile"):
            if not 0.5 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in (0.5, 1], got {getattr(self, name)}")
        if not 0.0 < self.start < self.end or not self.step > 0.0:
            raise ValueError(
                f"candidates need 0 < start < end and step > 0, got start={self.start}, "
                f"end={self.end}, step={self.step}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """The grids of one quantized operator.

    Args:
        weight: the weight's grid, None for a float weight.
        activation: the input's grid. The input is quantized where params has a "clip".
    """

    weight: WeightSpec | None = field(default_factory=WeightSpec)
    activation: ActivationSpec = field(default_factory=ActivationSpec)

    def __post_init__(self) -> None:
        if self.weight is not None and not isinstance(self.weight, WeightSpec):
            raise TypeError(f"weight must be a WeightSpec or None, got {self.weight!r}")
        if not isinstance(self.activation, ActivationSpec):
            raise TypeError(f"activation must be an ActivationSpec, got {self.activation!r}")

    @property
    def wide(self) -> bool:
        """Whether sums are computed in float64, which is exact to 2^53.

        Sums of products of 8-bit integers are exact in float32 below 2^24. With 16-bit
        activations a few products exceed that.
        """
        return self.weight is not None and self.activation.bits + self.weight.bits > 16
