"""Sensitivity of a model's output to each layer's weight bits and input range."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridge.arguments import check_model
from bridge.modules.from_float.subclass import hold_parameters
from bridge.modules.state.inference import copied
from bridge.modules.weighted import QATLayer, qat_layers
from bridge.report.layout import Listing
from bridge.report.printed import PrintedRows
from bridge.switches import set_quantization
from qatfunc import WeightSpec, arq_qparams, fake_quantize

__all__ = ["LayerSensitivity", "Sensitivities", "sensitivity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """Mean squared change of the model's output for each candidate of one layer.

    Args:
        path: of the layer.
        by_bits: change for each number of weight bits, relative to the float weight's output.
        by_range: change for each factor on the input's range, relative to the current range's.
    """

    path: str
    by_bits: dict[int, float]
    by_range: dict[float, float]


class Sensitivities(PrintedRows[LayerSensitivity]):
    """The sensitivities of a model: a tuple of one LayerSensitivity for each layer."""

    __slots__ = ()

    def __rich__(self) -> Listing:
        """Return the table of sensitivity_table."""
        return sensitivity_table(self)


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    *inputs: Any,
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    ranges: Sequence[float] = (0.25, 0.5, 0.75, 1.25),
) -> Sensitivities:
    """Measure the sensitivity to every quantized layer, one layer at a time.

    All candidates of a layer run at once, by torch.vmap.

    Args:
        model: a calibrated model; a copy of it runs in eval mode.
        inputs: positional arguments of the model's forward.
        bits: numbers of weight bits to try, 2 to 16.
        ranges: factors on the input's range to try.
    Returns:
        the layers in definition order; print shows a table.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: the model has no quantized layer, or one that is not calibrated.
    """
    check_model(model, "sensitivity")
    for name, given in (("bits", bits), ("ranges", ranges)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError(f"sensitivity: {name} must be a list of numbers, got {given!r}")
    if not dict(qat_layers(model)):
        raise ValueError("sensitivity: no quantized layers; call bridge.prepare_qat(model) first")
    model = copied(model).eval()
    tables = []
    for path, layer in qat_layers(model):
        if not isinstance(layer, QATLayer):
            continue
        if not layer.calibrated:
            raise ValueError(f"{path} is not calibrated")
        hold_parameters(layer)
        tables.append(
            LayerSensitivity(
                path=path,
                by_bits=_by_bits(model, path, layer, inputs, bits),
                by_range=_by_range(model, path, layer, inputs, ranges),
            )
        )
    return Sensitivities(tables)


def sensitivity_table(layers: Sequence[LayerSensitivity]) -> Listing:
    """Return sensitivities as a table.

    Args:
        layers: from sensitivity.
    Returns:
        the table, for print or rich.print.
    """
    columns = ["layer"]
    if layers:
        columns += [f"{width}-bit weight" for width in layers[0].by_bits]
        columns += [f"range x {factor:g}" for factor in layers[0].by_range]
    rows = []
    for layer in layers:
        errors = [*layer.by_bits.values(), *layer.by_range.values()]
        rows.append([layer.path, *(f"{error:.2e}" for error in errors)])
    return Listing(title="mean squared change of the output", columns=columns, rows=rows)


def _by_bits(
    model: nn.Module, path: str, layer: QATLayer, inputs: Any, bits: Sequence[int]
) -> dict[int, float]:
    weight, layout = layer.weight, {"groups": getattr(layer, "groups", 1)}
    candidates = [weight]
    for width in bits:
        spec = WeightSpec(bits=width, per_channel=layer.config.weight.per_channel)
        qparams = arq_qparams(weight, spec, transposed=layer.operator.transposed, **layout)
        candidates.append(fake_quantize(weight, qparams, spec))
    with set_quantization(model, weights=False, layers=path):
        outputs = _run_each(model, {f"{path}.weight": torch.stack(candidates)}, inputs)
    return dict(zip(bits, _errors(outputs), strict=True))


def _by_range(
    model: nn.Module, path: str, layer: QATLayer, inputs: Any, ranges: Sequence[float]
) -> dict[float, float]:
    factors = layer.weight.new_tensor([1.0, *ranges])
    clips = {
        f"{path}.acts_clip_{end}": factors * getattr(layer, f"acts_clip_{end}")
        for end in ("max", "min")
    }
    return dict(zip(ranges, _errors(_run_each(model, clips, inputs)), strict=True))


def _run_each(model: nn.Module, candidates: dict[str, Tensor], inputs: Any) -> Tensor:
    names = {name.removeprefix("."): values for name, values in candidates.items()}

    def run(chosen: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, chosen, inputs)

    return torch.vmap(run)(names)


def _errors(outputs: Tensor) -> list[float]:
    """Return the mean squared difference of each candidate's output from the first one's."""
    return (outputs[1:] - outputs[0]).square().flatten(1).mean(1).tolist()
