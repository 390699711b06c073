"""verify: where training, fake-quant and deploy compute the same bits, and where they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bridge.export.constants import Array
from bridge.export.convert import read_quantized
from bridge.export.files import read_model
from bridge.export.layer import QuantizedLayer
from bridge.export.layer_names import module_path, scope_of_name
from bridge.export.product import Operand, QuantizedProduct
from bridge.export.requantize import is_codes
from bridge.export.runtime import Feeds, run_model
from bridge.export.scribe import per_output_shape

Quantized = QuantizedLayer | QuantizedProduct


@dataclass(frozen=True, slots=True)
class Difference:
    """How two arrays differ.

    Args:
        count: values that differ in any bit.
        total: values compared.
        largest: largest difference, in the unit the field says.
    """

    count: int
    total: int
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """One quantized layer on the data.

    Args:
        name: module path.
        op: operator in the inter model.
        codes_torch_fake: the layer's quantized input, torch against fake-quant, in steps of it.
        codes_fake_deploy: the same, fake-quant against deploy.
        output_torch_fake: the layer's output, in steps of its accumulator.
        output_fake_deploy: the same, fake-quant against deploy.
        bound: largest |accumulator| any input can cause, None if not known.
        measured: largest |accumulator| the data caused.
        proven: bound < 2^24: exact for every input; otherwise exactness is what was measured.
    None stands for a value that one of the models does not have.
    """

    name: str
    op: str
    codes_torch_fake: Difference | None
    codes_fake_deploy: Difference | None
    output_torch_fake: Difference | None
    output_fake_deploy: Difference | None
    bound: int | None
    measured: int
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output of the model on the data; differences are absolute."""

    name: str
    torch_fake: Difference
    fake_deploy: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of verify.

    Args:
        layers: the quantized layers in topological order.
        outputs: the model's outputs.
        first_torch_fake: the first module whose output differs between torch and fake-quant.
        first_fake_deploy: the first value that differs between fake-quant and deploy.
    """

    layers: tuple[LayerCheck, ...]
    outputs: tuple[OutputCheck, ...]
    first_torch_fake: str | None
    first_fake_deploy: str | None

    @property
    def exact(self) -> bool:
        """Whether every output has the same bits on all three paths."""
        return all(o.torch_fake.count == o.fake_deploy.count == 0 for o in self.outputs)


def verify(
    model: nn.Module,
    inter: str | PathLike[str],
    fake: str | PathLike[str],
    deploy: str | PathLike[str],
    data: Any,
) -> Verification:
    """Compare training (in eval mode), fake-quant and deploy, layer by layer, in every bit.

    A conversion of mode "fast" computes something else than the model: fake-quant and deploy are
    compared as ever, and differences to torch are what the mode costs on this data.

    Args:
        model: the trained model; its modes are put back afterwards.
        inter: what torch.onnx.export wrote for it.
        fake: the fake-quant model.
        deploy: the deploy model, of any target.
        data: one batch: a tensor, or a tuple or list of the model's positional arguments.
    Returns:
        differences for each layer and output, and the first place where paths part.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: data does not fit the model's inputs, or the outputs of the paths do not
            match in number or shape.
    """
    arguments = tuple(data) if isinstance(data, tuple | list) else (data,)
    graph = read_model(Path(inter)).graph
    layers, products, _ = read_quantized(graph)
    modules = _values_of_modules(graph, [*layers, *products])
    names = [v.name for node in graph for v in node.outputs if v.name]
    names += [v.name for v in graph.inputs if v.name]
    names += [
        v.name for node in ir.load(fake).graph for v in node.outputs if v.name and is_codes(v)
    ]
    quantized: list[Quantized] = [*layers, *products]
    feeds = [argument.detach().cpu().numpy() for argument in arguments]
    # An initializer that is an input too has a default, which stays.
    fed = [v.name or "" for v in graph.inputs if v.name not in graph.initializers]
    plain = [run_model(Path(path), feeds) for path in (fake, deploy)]
    inner = [run_model(Path(path), feeds, _present(path, names)) for path in (fake, deploy)]
    for values in inner:
        values.update(zip(fed, feeds, strict=True))
    recorded = _run_torch(model, arguments)
    checks = tuple(
        _check(what, operand, modules, recorded, *inner)
        for what in quantized
        for operand in range(len(_operands(what)))
    )
    return Verification(
        layers=checks,
        outputs=_check_outputs(recorded.outputs, *plain),
        first_torch_fake=_first_module(recorded, modules, inner[0]),
        first_fake_deploy=next((n for n in names if _differ(inner[0], inner[1], n)), None),
    )


@dataclass(slots=True)
class _Recorded:
    """What a torch forward computed: each module's first inputs and output, in order of calls."""

    inputs: dict[str, tuple[Array, ...]]
    results: dict[str, Array]
    calls: dict[str, int]
    outputs: list[Array]


@torch.no_grad()
def _run_torch(model: nn.Module, arguments: Sequence[Tensor]) -> _Recorded:
    recorded = _Recorded({}, {}, {}, [])

    def hook(path: str, inputs: tuple[Any, ...], output: Any) -> None:
        recorded.calls[path] = recorded.calls.get(path, 0) + 1
        if isinstance(output, Tensor):
            tensors = tuple(x.detach().cpu().numpy() for x in inputs if isinstance(x, Tensor))
            recorded.inputs.setdefault(path, tensors)
            recorded.results.setdefault(path, output.detach().cpu().numpy())

    handles = [
        module.register_forward_hook(lambda _, i, o, path=path: hook(path, i, o))
        for path, module in model.named_modules()
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        output = model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    recorded.outputs = [t.detach().cpu().numpy() for t in _flatten(output)]
    return recorded


def _flatten(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, Mapping) else output
    return [tensor for item in items for tensor in _flatten(item)]


def _values_of_modules(graph: ir.Graph, layers: Sequence[Quantized]) -> dict[str, str]:
    """Map a module's path to the value it returns: the last one written in its scope."""
    found: dict[str, str] = {}
    for node in graph:
        path = module_path(node) or scope_of_name(node.name or "")
        if path and node.outputs[0].name:
            found[path] = node.outputs[0].name
    return found | {layer.name: layer.output.name or "" for layer in layers}


def _present(path: str | PathLike[str], names: Sequence[str]) -> list[str]:
    graph = ir.load(path).graph
    present = {value.name for node in graph for value in node.outputs}
    return [name for name in names if name in present]


def _accumulator_step(what: Quantized) -> Array:
    if isinstance(what, QuantizedProduct):
        return np.asarray(what.rescale)
    return per_output_shape(what.rescale, what)


def _operands(what: Quantized) -> tuple[Operand, ...]:
    if isinstance(what, QuantizedProduct):
        return what.operands
    return (Operand(what.x_q, what.scale_x, what.zero_point_x),)


def _check(
    what: Quantized,
    index: int,
    modules: dict[str, str],
    recorded: _Recorded,
    fake: Feeds,
    deploy: Feeds,
) -> LayerCheck:
    operands = _operands(what)
    operand, product = operands[index], len(operands) > 1
    producer = operand.x_q.producer()
    source = None if producer is None or not producer.inputs else producer.inputs[0]
    x_name = source.name if source is not None and source.name else ""
    y_name = modules[what.name]
    once = recorded.calls.get(what.name) == 1
    inputs = recorded.inputs.get(what.name, ()) if once else ()
    x = [inputs[index] if index < len(inputs) else None, fake.get(x_name), deploy.get(x_name)]
    y = [recorded.results.get(what.name) if once else None, fake.get(y_name), deploy.get(y_name)]
    codes = [None if value is None else _codes(value, operand) for value in x]
    for i, values in enumerate((fake, deploy), start=1):
        if codes[i] is None:
            codes[i] = _stored_codes(values.get(operand.x_q.name or ""), operand)
    steps = _accumulator_step(what)
    computed = [value for value in y if value is not None]
    return LayerCheck(
        name=f"{what.name}.{'other' if index else 'input'}" if product else what.name,
        op=what.node.op_type,
        codes_torch_fake=_compare(codes[0], codes[1]),
        codes_fake_deploy=_compare(codes[1], codes[2]),
        output_torch_fake=_compare(y[0], y[1], steps),
        output_fake_deploy=_compare(y[1], y[2], steps),
        bound=what.accumulator_bound,
        measured=int(max((np.rint(np.abs(v) / steps).max(initial=0) for v in computed), default=0)),
        proven=what.proven,
    )


def _codes(x: Array, operand: Operand) -> Array:
    info = np.iinfo(operand.zero_point.dtype)
    return np.clip(np.rint(x / operand.scale) + int(operand.zero_point), info.min, info.max)


def _stored_codes(codes: Array | None, operand: Operand) -> Array | None:
    """Count codes as the operand's type does, whatever type a model holds them in."""
    if codes is None:
        return None
    shift = np.iinfo(codes.dtype).min - np.iinfo(operand.zero_point.dtype).min
    return codes.astype(np.float32) - np.float32(shift)


def _check_outputs(torch_: list[Array], fake: Feeds, deploy: Feeds) -> tuple[OutputCheck, ...]:
    if len(torch_) != len(fake):
        raise ValueError(f"the model has {len(torch_)} outputs, fake-quant has {len(fake)}")
    checks = []
    for computed, name in zip(torch_, fake, strict=True):
        first = _compare(computed, fake[name])
        second = _compare(fake[name], deploy.get(name))
        if first is None or second is None:
            raise ValueError(
                f"output {name!r} has shape {computed.shape} in torch, {fake[name].shape} in "
                f"fake-quant and {getattr(deploy.get(name), 'shape', None)} in deploy"
            )
        checks.append(OutputCheck(name=name, torch_fake=first, fake_deploy=second))
    return tuple(checks)


def _first_module(recorded: _Recorded, modules: dict[str, str], fake: Feeds) -> str | None:
    for path, result in recorded.results.items():
        other = fake.get(modules.get(path, ""))
        if recorded.calls[path] == 1 and other is not None:
            difference = _compare(result, other)
            if difference is not None and difference.count:
                return path
    return None


def _differ(first: Feeds, second: Feeds, name: str) -> bool:
    difference = _compare(_signed(first.get(name)), _signed(second.get(name)))
    return difference is not None and difference.count > 0


def _signed(values: Array | None) -> Array | None:
    """Count unsigned codes as the signed ones they stand for in the other model."""
    if values is None or values.dtype != np.uint8:
        return values
    return (values.astype(np.int16) - 128).astype(np.int8)


def _compare(a: Array | None, b: Array | None, unit: Array | float = 1.0) -> Difference | None:
    if a is None or b is None or a.shape != b.shape:
        return None
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    bits = np.dtype(f"u{a.dtype.itemsize}")
    count = int((a.view(bits) != b.view(bits)).sum()) if a.dtype == b.dtype else a.size
    distance = np.abs(a.astype(np.float64) - b) / unit if count else np.zeros(1)
    return Difference(count, a.size, float(distance.max(initial=0.0)))
