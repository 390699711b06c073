"""verify: which values of torch, fake-quant and deploy have the same bits, and which do not."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import onnx_ir as ir
from torch import nn

from bridge.arguments import check_model
from bridge.export.fast.requantize import holds_fast_codes
from bridge.export.graph.constants import Array
from bridge.export.graph.names import module_path, scope_of_name
from bridge.export.normalize.model import read_model
from bridge.export.read.quantized import read_quantized
from bridge.export.read.zero_points import UINT8_SHIFT
from bridge.export.result.conversion import Conversion
from bridge.export.result.verify.batch import flatten_outputs, numpy_of, read_batch
from bridge.export.result.verify.compared import read_arguments
from bridge.export.result.verify.differences import Difference, compare
from bridge.export.result.verify.operands import (
    Quantized,
    accumulator_step,
    codes_in,
    float_input,
    largest_accumulator,
    operands_of,
)
from bridge.export.result.verify.torch_calls import TorchCalls, compare_calls, unwrapped
from bridge.export.result.verify.verification import LayerCheck, OutputCheck, Verification
from bridge.export.running.runtime import Feeds, interface, run_model


@overload
def verify(model: nn.Module | None, result: Conversion, data: Any) -> Verification: ...


@overload
def verify(
    model: nn.Module | None,
    inter: str | PathLike[str],
    fake: str | PathLike[str],
    deploy: str | PathLike[str],
    data: Any,
) -> Verification: ...


def verify(model: nn.Module | None, *given: Any, **named: Any) -> Verification:
    """Compare the torch model in eval mode, fake-quant and deploy, layer by layer, in every bit.

        verify(model, result, data)
        verify(model, inter, fake, deploy, data)

    For a conversion of mode "fast", which differs from the torch model, the differences between
    torch and fake-quant show what the mode costs on this data.

    Args:
        model: the trained model, whose training modes are restored; None compares only the files.
        *given: (result, data), or (inter, fake, deploy, data). `result` is what convert_qat_model
            returned, whose files are compared; `inter` what torch.onnx.export wrote for the model,
            `fake` the fake-quant and `deploy` the deploy model, of any target. `data` is one batch:
            a tensor or an array, a tuple or list of the model's positional arguments, or a dict by
            the names of its arguments or of the file's inputs.
        **named: the same arguments by name.
    Returns:
        the differences of each layer and output, and the first values that differ.
    Raises:
        TypeError: model, result, a path or data has a wrong type, or an input has another dtype.
        FileNotFoundError: a file is missing.
        ValueError: data does not fit the model's inputs, or outputs differ in number or shape.
    """
    if model is not None:
        check_model(model, "verify")
    files = read_arguments(given, named)
    inter, both = files.inter, (files.fake, files.deploy)
    graph = read_model(inter, follow_symlinks=files.follow_symlinks).graph
    layers, products, _ = read_quantized(graph)
    quantized: list[Quantized] = [*layers, *products]
    modules = _values_of_modules(graph, quantized)
    # An input that is also an initializer has a default value and needs no data.
    inputs = [v for v in graph.inputs if v.name not in graph.initializers]
    batch = read_batch(files.data, model, inputs, inter)
    different = _interfaces(inter, *both)
    names = [v.name for node in graph for v in node.outputs if v.name]
    names += [v.name for v in graph.inputs if v.name]
    written = ir.load(files.fake).graph
    names += [v.name for node in written for v in node.outputs if v.name and holds_fast_codes(v)]
    plain = [_run(path, batch.feeds) for path in both]
    inner = [_run(path, batch.feeds, _present(path, names)) for path in both]
    for values in inner:
        values.update(batch.feeds)
    calls = TorchCalls()
    if model is not None:
        calls = compare_calls(unwrapped(model), batch, quantized, modules, inner[0])
    return Verification(
        layers=tuple(
            _check(layer, operand, modules[layer.name], calls, *inner)
            for layer in quantized
            for operand in range(len(operands_of(layer)))
        ),
        outputs=_check_outputs(
            graph,
            None if model is None else calls,
            *map(_in_order, both, plain),
            alike=not different,
        ),
        first_torch_fake=calls.first,
        first_fake_deploy=next((n for n in names if _differ(inner[0], inner[1], n)), None),
        first_nan=calls.nan or _first_nan(quantized, *inner),
        interface=different,
        missing=calls.missing,
        uncalled=calls.uncalled,
        unmatched=calls.unmatched,
    )


def _run(path: Path, feeds: Feeds, extra: Sequence[str] = ()) -> Feeds:
    names, _ = interface(path)
    if set(names) != set(feeds):
        raise ValueError(f"{path} takes the inputs {names}, the inter model {list(feeds)}")
    return run_model(path, [feeds[name] for name in names], extra)


def _in_order(path: Path, results: Feeds) -> list[Array]:
    """List the outputs of a file in order; a value may be more than one output."""
    return [results[name] for name in interface(path)[1]]


def _interfaces(inter: Path, *others: Path) -> tuple[str, ...]:
    """Describe how inputs and outputs of files differ from the inter model's in name or order."""
    wanted = interface(inter)
    return tuple(
        f"{path.name} has the {what} {there}, {inter.name} {here}"
        for path in others
        for what, here, there in zip(("inputs", "outputs"), wanted, interface(path), strict=True)
        if here != there
    )


def _values_of_modules(graph: ir.Graph, layers: Sequence[Quantized]) -> dict[str, str]:
    """Map the path of each module to its output: the last value computed in its scope."""
    found: dict[str, str] = {}
    for node in graph:
        path = module_path(node) or scope_of_name(node.name or "")
        if path and node.outputs[0].name:
            found[path] = node.outputs[0].name
    return found | {layer.name: layer.output.name or "" for layer in layers}


def _present(path: Path, names: Sequence[str]) -> list[str]:
    graph = ir.load(path).graph
    present = {value.name for node in graph for value in node.outputs}
    return [name for name in names if name in present]


def _check(
    layer: Quantized, index: int, y_name: str, calls: TorchCalls, fake: Feeds, deploy: Feeds
) -> LayerCheck:
    operands = operands_of(layer)
    codes = codes_in(operands[index], fake), codes_in(operands[index], deploy)
    y, step = (fake.get(y_name), deploy.get(y_name)), accumulator_step(layer)
    sums = [largest_accumulator(value, step) for value in y if value is not None]
    end = f".{'other' if index else 'input'}" if len(operands) > 1 else ""
    return LayerCheck(
        name=f"{layer.name}{end}",
        op=layer.node.op_type,
        codes_torch_fake=calls.codes.get((layer.name, index)),
        codes_fake_deploy=compare(codes[0], codes[1]),
        output_torch_fake=calls.results.get(layer.name),
        output_fake_deploy=compare(y[0], y[1], step),
        bound=layer.accumulator_bound,
        measured=max([calls.measured.get(layer.name, 0), *sums]),
        proven=layer.proven,
    )


def _check_outputs(
    graph: ir.Graph,
    calls: TorchCalls | None,
    fake: list[Array],
    deploy: list[Array],
    *,
    alike: bool,
) -> tuple[OutputCheck, ...]:
    names = [value.name or "" for value in graph.outputs]
    torch_: list[Array | None] = [None] * len(fake)
    if calls is not None:
        torch_ = list(_torch_outputs(calls.output, len(fake)))
    if len(fake) != len(deploy):
        raise ValueError(f"fake-quant has {len(fake)} outputs, deploy has {len(deploy)}")
    if len(fake) != len(names):
        raise ValueError(f"the inter model has {len(names)} outputs, fake-quant has {len(fake)}")
    checks = []
    for name, computed, one, other in zip(names, torch_, fake, deploy, strict=True):
        first, second = compare(computed, one), compare(one, other)
        if not alike:  # a different output at this position may have another shape
            first = first or (None if computed is None else _all_of(computed))
            second = second or _all_of(one)
        if second is None or (first is None and computed is not None):
            torch_shape = None if computed is None else computed.shape
            raise ValueError(
                f"output {name!r} has shape {torch_shape} in torch, {one.shape} in fake-quant and "
                f"{other.shape} in deploy"
            )
        checks.append(OutputCheck(name=name, torch_fake=first, fake_deploy=second))
    return tuple(checks)


def _all_of(values: Array) -> Difference:
    return Difference(values.size, values.size, np.inf)


def _torch_outputs(output: Any, count: int) -> list[Array]:
    found = flatten_outputs(output)
    if len(found) > count:  # exporters may leave out Python numbers
        found = [value for value in found if not isinstance(value, bool | int | float)]
    if len(found) != count:
        raise ValueError(f"the model has {len(found)} outputs, fake-quant has {count}")
    return [numpy_of(value) for value in found]


def _first_nan(quantized: Sequence[Quantized], *models: Feeds) -> str | None:
    for values in models:
        for layer in quantized:
            for operand in operands_of(layer):
                x = float_input(operand, values)
                if x is not None and x.dtype.kind == "f" and np.isnan(x).any():
                    return layer.name
    return None


def _differ(first: Feeds, second: Feeds, name: str) -> bool:
    difference = compare(_signed(first.get(name)), _signed(second.get(name)))
    return difference is not None and difference.count > 0


def _signed(values: Array | None) -> Array | None:
    """Shift uint8 codes to the int8 codes of the other model."""
    if values is None or values.dtype != np.uint8:
        return values
    return (values.astype(np.int16) - UINT8_SHIFT).astype(np.int8)
