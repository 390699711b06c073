"""Names of layers in messages: the path in the model whose forward is running."""

import inspect

from torch import nn

from bridge.modules.compiling import constant_result, uncompiled
from qatfunc.numerics.torch_internals import original_module

_REMEMBERED = "_path_in_model"
_FRAMES = "it reads Python frames, which the compiler cannot trace"


def remember_paths(model: nn.Module, kind: type[nn.Module]) -> None:
    """Store its path in each layer, for messages of layers that are called without their model.

    Args:
        model: any module.
        kind: class of the layers.
    """
    for path, module in model.named_modules():
        # Part of the model may be prepared or calibrated on its own later: keep the longer path.
        known = module.__dict__.get(_REMEMBERED, "")
        if path and isinstance(module, kind) and not f".{known}".endswith(f".{path}"):
            module.__dict__[_REMEMBERED] = path


@constant_result
def layer_path(layer: nn.Module) -> str:
    """Return a layer's path in the outermost module whose forward is running.

    A module does not know its own path. The model that calls it does, and its frame is on the call
    stack. The search takes milliseconds, so it is done for messages only; under torch.compile
    while the message is traced.

    Args:
        layer: a module, one of whose methods is running.
    Returns:
        its dotted path and class, such as "layer1.0.conv1 (Conv2dQAT)"; if the layer was called
        without its model, the path that remember_paths stored.
    """
    return _described(layer)


@uncompiled(reason=_FRAMES)
def siblings(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of the model that calls a layer, by path.

    Args:
        layer: a module, one of whose methods is running.
    Returns:
        all modules of the outermost running model; at least the layer itself, with path "".
    """
    return dict(_running_model(layer).named_modules())


def loading_strictly() -> bool:
    """Return whether the running load_state_dict has strict=True.

    torch does not pass `strict` to modules, so it is read from the call stack.

    Returns:
        False if no load_state_dict is running.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "load_state_dict" and "strict" in frame.f_locals:
            return bool(frame.f_locals["strict"])
        frame = frame.f_back
    return False


@uncompiled(reason=_FRAMES)
def _described(layer: nn.Module) -> str:
    path = _paths(layer).get(id(layer), "") or layer.__dict__.get(_REMEMBERED, "")
    kind = type(layer).__name__
    return f"{path} ({kind})" if path else kind


def _paths(layer: nn.Module) -> dict[int, str]:
    return {id(module): path for path, module in siblings(layer).items()}


def _running_model(layer: nn.Module) -> nn.Module:
    model = layer
    frame = inspect.currentframe()
    while frame is not None:
        candidate = original_module(frame.f_locals.get("self"))
        if (
            isinstance(candidate, nn.Module)
            and not _is_wrapper(candidate)
            and any(module is layer for module in candidate.modules())
        ):
            model = candidate
        frame = frame.f_back
    return model


def _is_wrapper(module: nn.Module) -> bool:
    """Whether torch's tracing wrapped the user's model in this module, which no path may name."""
    home = type(module).__module__
    return home.startswith("torch.") and not home.startswith("torch.nn.")
