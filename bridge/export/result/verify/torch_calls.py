"""Comparing the layers of a torch model, while it runs, with those of its fake-quant model."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bridge.export.result.verify.batch import Batch, numpy_of
from bridge.export.result.verify.calls import Call, Watcher, run_watched
from bridge.export.result.verify.differences import Difference, compare
from bridge.export.result.verify.operands import (
    Quantized,
    accumulator_step,
    codes_in,
    codes_of,
    largest_accumulator,
    operands_of,
)
from bridge.export.running.runtime import Feeds
from bridge.modules.ranges import RangedModule
from qatfunc.numerics.torch_internals import original_module


@dataclass(slots=True)
class TorchCalls:
    """Differences between a run of the torch model and the fake-quant model.

    Args:
        output: the model's output.
        codes: differences of input codes, by layer name and operand index.
        results: differences of outputs, by layer name.
        measured: largest |accumulator|, by layer name.
        first: the first module whose output differs.
        nan: the first layer whose input has NaN.
        missing: quantized layers of the model whose names are not in the file.
        uncalled: those of `missing` that the model did not call.
        unmatched: layers that the model calls more or less often than the file has operators of
            their name.
    """

    output: Any = None
    codes: dict[tuple[str, int], Difference | None] = field(default_factory=dict)
    results: dict[str, Difference | None] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    first: str | None = None
    nan: str | None = None
    missing: tuple[str, ...] = ()
    uncalled: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def unwrapped(model: nn.Module) -> nn.Module:
    """Unwrap torch.compile, DataParallel and DistributedDataParallel.

    Args:
        model: any module.
    Returns:
        the module that was exported, whose layer names are those in the file.
    """
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = original_module(model)
    return model if inner is model else unwrapped(inner)


def compare_calls(
    model: nn.Module,
    batch: Batch,
    quantized: Sequence[Quantized],
    values: Mapping[str, str],
    fake: Feeds,
) -> TorchCalls:
    """Run a torch model and compare its modules' outputs with the fake-quant model's values.

    The n-th call of a layer is compared with the n-th operator of its name. A layer is not
    compared if the file has more or fewer such operators than the model makes calls, because
    exporters merge equal calls and drop unused ones.

    Args:
        model: the torch model.
        batch: its arguments.
        quantized: the layers of the file, in topological order.
        values: name of the output in the file, by module path or layer name.
        fake: values of the fake-quant model, by name.
    Returns:
        the differences.
    """
    seen = _Comparison(_by_path(model, quantized), values, fake)
    output = run_watched(model, batch, Watcher(inputs=seen.see_inputs, output=seen.see_output))
    return seen.finish(model, output)


class _Comparison:
    def __init__(
        self, layers: Mapping[str, Sequence[Quantized]], values: Mapping[str, str], fake: Feeds
    ) -> None:
        self._layers, self._values, self._fake = layers, values, fake
        self._calls: Counter[str] = Counter()
        self._differing: list[tuple[str, str]] = []
        self._seen = TorchCalls()

    def see_inputs(self, call: Call, module: nn.Module, tensors: Sequence[Tensor]) -> None:
        self._calls[call.path] += 1
        layer = self._layer(call)
        quantizes = layer is not None or isinstance(module, RangedModule)
        if self._seen.nan is None and quantizes and any(torch.isnan(x).any() for x in tensors):
            self._seen.nan = call.path if layer is None else layer.name
        if layer is None:
            return
        for i, (operand, x) in enumerate(zip(operands_of(layer), tensors, strict=False)):
            codes = codes_of(numpy_of(x), operand)
            self._seen.codes[layer.name, i] = compare(codes, codes_in(operand, self._fake))

    def see_output(self, call: Call, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        layer = self._layer(call)
        name = call.path if layer is None else layer.name
        if layer is None and (call.index or call.path in self._layers):
            return
        other = self._fake.get(self._values.get(name, ""))
        array = numpy_of(output)
        if layer is None:
            difference = compare(array, other)
        else:
            step = accumulator_step(layer)
            difference = self._seen.results[name] = compare(array, other, step)
            self._seen.measured[name] = largest_accumulator(array, step)
        if difference is not None and difference.count:
            self._differing.append((call.path, name))

    def finish(self, model: nn.Module, output: Any) -> TorchCalls:
        seen, wanted = self._seen, {path: len(nodes) for path, nodes in self._layers.items()}
        seen.output = output
        seen.unmatched = tuple(p for p, count in wanted.items() if self._calls[p] != count)
        for path in seen.unmatched:
            layers = self._layers[path]
            for name in [layer.name for layer in layers]:
                seen.codes = {key: value for key, value in seen.codes.items() if key[0] != name}
                seen.results.pop(name, None)
        firsts = (n for p, n in self._differing if self._calls[p] == wanted.get(p, 1))
        seen.first = next(firsts, None)
        seen.missing = tuple(
            path
            for path, module in model.named_modules()
            if isinstance(module, RangedModule)
            and module.config.enabled
            and module.quantizes_input
            and path not in self._layers
        )
        seen.uncalled = tuple(path for path in seen.missing if not self._calls[path])
        return seen

    def _layer(self, call: Call) -> Quantized | None:
        layers = self._layers.get(call.path, ())
        return layers[call.index] if call.index < len(layers) else None


def _by_path(model: nn.Module, quantized: Sequence[Quantized]) -> dict[str, list[Quantized]]:
    """List the operators of each module in call order."""
    paths = {module: path for path, module in model.named_modules()}
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, list[Quantized]] = defaultdict(list)
    for layer in quantized:
        # In the file, repeated calls of a layer are named NAME#2, NAME#3, ...
        module = modules.get(layer.name) or modules.get(layer.name.rpartition("#")[0])
        if module is not None:
            found[paths[module]].append(layer)
    return dict(found)
