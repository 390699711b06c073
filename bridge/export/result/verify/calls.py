"""Hooks on the calls of a model's modules, which see values before they can be modified."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from bridge.export.result.verify.batch import Batch


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module.

    Args:
        path: of the module.
        index: 0 for its first call.
    """

    path: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Callbacks at the time of each call: a later operator may modify its tensors in place.

    Args:
        inputs: called with the call, the module and its tensor arguments in signature order.
        output: called with the call and its return value.
    """

    inputs: Callable[[Call, nn.Module, list[Tensor]], None]
    output: Callable[[Call, Any], None]


@torch.no_grad()
def run_watched(model: nn.Module, batch: Batch, watcher: Watcher) -> Any:
    """Run a model in eval mode with callbacks on every call of its modules.

    Args:
        model: the model; its training modes are restored.
        batch: its arguments.
        watcher: called before a module runs, and after it, before any other module.
    Returns:
        the model's output.
    """
    with _hooked(model, watcher), _in_eval_mode(model):
        return model(*batch.arguments, **batch.keywords)


@contextmanager
def _hooked(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    calls: Counter[str] = Counter()
    running: list[Call] = []

    def before(path: str, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        running.append(Call(path, calls[path]))
        calls[path] += 1
        if named:
            args = tuple(signature(module.forward).bind(*args, **named).arguments.values())
        watcher.inputs(running[-1], module, [x for x in args if isinstance(x, Tensor)])

    def after(output: Any) -> None:
        watcher.output(running.pop(), output)

    handles = []
    for path, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(
                lambda m, args, named, path=path: before(path, m, args, named), with_kwargs=True
            ),
            module.register_forward_hook(lambda _, __, output: after(output)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
