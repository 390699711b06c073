"""Which layer each BatchNorm follows, by a symbolic trace or by one run."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from bridge.modules.ranges import RangedModule
from bridge.selection.batches import call, check_batch, observing
from qatfunc.numerics.torch_internals import BatchNorm, Dropout, TorchDispatchMode, tree_leaves

FOLDABLE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of a model's layers and BatchNorms, by their paths."""

    inputs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For each call of a BatchNorm the layer whose output is its input, "" if there is none."""
    readers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """For each call of a layer how many operations use its output."""
    ranks: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The ranks (numbers of axes) of a layer's outputs; empty in a trace."""

    def layer_before(self, norm: str) -> tuple[str, str]:
        """Return the layer whose output only this BatchNorm uses, or why there is none.

        Args:
            norm: path of the BatchNorm.
        Returns:
            (path of the layer, "") or ("", reason).
        """
        layers = self.inputs.get(norm, [])
        if not layers:
            return "", "it is not called"
        if len(set(layers)) > 1:
            return "", "it is called for several layers"
        layer = layers[0]
        if not layer:
            return "", "its input is not the output of a convolution or linear layer"
        if len(self.readers[layer]) != len(layers):
            return "", f"{layer} is also called without it"
        if any(count != 1 for count in self.readers[layer]):
            return "", f"the output of {layer} has other users too"
        return layer, ""


def traced_calls(model: nn.Module) -> Calls:
    """Find the calls in a symbolic trace.

    Args:
        model: any module that torch.fx can trace with its layers as leaves.
    Returns:
        the calls in the graph.
    Raises:
        ValueError: the model cannot be traced.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"the model cannot be traced: {error}; give pairs=, or example= to find them in a run"
        ) from error
    modules = dict(model.named_modules())
    calls = Calls()
    for node in graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FOLDABLE):
            calls.readers[str(node.target)].append(len(node.users))
        elif isinstance(module, BatchNorm):
            source = node.args[0] if node.args else node.kwargs.get("input")
            calls.inputs[str(node.target)].append(_layer_of(source, modules))
    return calls


def observed_calls(model: nn.Module, example: Any) -> Calls:
    """Record the calls of one run in eval mode, which changes no state.

    Args:
        model: any module.
        example: a batch as calibrate takes it.
    Returns:
        the calls of the run.
    """
    check_batch(model, example, "fold_batch_norm: example")
    watch = _Watch(model)
    with watch.hooked(), observing(model), watch:
        watch.read(call(model, example))
    return watch.result()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Leaves: subclasses of layers, which may call functions of their own, and custom modules
        # without children, which may compute something else in training mode.
        leaf = isinstance(m, (RangedModule, BatchNorm, *FOLDABLE)) or _computes_itself(m)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _layer_of(source: Any, modules: Mapping[str, nn.Module]) -> str:
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return ""
    return str(source.target) if isinstance(modules.get(str(source.target)), FOLDABLE) else ""


class _Watch(TorchDispatchMode):
    """Counts the operations that use each output of a layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # The tensors are kept alive, so that no id is reused.
        self.outputs: dict[int, tuple[str, Tensor]] = {}
        self.counts: dict[int, int] = {}
        self.calls = Calls()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))

    def read(self, values: Any) -> None:
        """Count one use of every tensor in a pytree."""
        for value in tree_leaves(values):
            if id(value) in self.counts:
                self.counts[id(value)] += 1

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for path, module in self.model.named_modules():
            if isinstance(module, FOLDABLE):
                handles.append(module.register_forward_hook(self._noting_output(path)))
            elif isinstance(module, BatchNorm):
                hook = self._noting_input(path)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            elif isinstance(module, Dropout) or _computes_itself(module):
                # In eval mode these may return their input, which dispatches no operation.
                handles.append(module.register_forward_pre_hook(lambda _, given: self.read(given)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def result(self) -> Calls:
        for key, (path, output) in self.outputs.items():
            self.calls.readers[path].append(self.counts[key])
            self.calls.ranks[path].add(output.ndim)
        return self.calls

    def _noting_output(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self.outputs[id(output)] = (path, output)
            self.counts[id(output)] = 0

        return hook

    def _noting_input(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            source = given[0] if given else named.get("input")
            self.calls.inputs[path].append(self.outputs.get(id(source), ("", None))[0])

        return hook


def _computes_itself(module: nn.Module) -> bool:
    """Whether a module is of a custom class and has no children, such as a DropPath."""
    leaf = not any(True for _ in module.children())
    return leaf and not type(module).__module__.startswith("torch.nn.")
