"""What to call a layer in a message: its path in the model that is running."""

import inspect

from torch import nn

from bridge.modules.compiling import constant_result, uncompiled
from qatfunc.torch_internals import original_module

_REMEMBERED = "_path_in_model"
_FRAMES = "frames cannot be compiled, nor can what looks at them"


def remember_paths(model: nn.Module, kind: type[nn.Module]) -> None:
    """Let layers know their paths, for messages where no model that holds them is seen to run.

    Args:
        model: any module.
        kind: class of the layers.
    """
    for path, module in model.named_modules():
        # A part of a model may be prepared or calibrated later: the longer path says more.
        known = module.__dict__.get(_REMEMBERED, "")
        if path and isinstance(module, kind) and not f".{known}".endswith(f".{path}"):
            module.__dict__[_REMEMBERED] = path


@constant_result
def layer_path(layer: nn.Module) -> str:
    """Return a layer's path in the outermost module whose forward is running.

    A module does not know its own name. The model that called it does, and stands further up
    the stack; looking there costs milliseconds, so only messages do it. Under torch.compile this
    happens while the message is traced.

    Args:
        layer: a module whose method is running.
    Returns:
        its dotted path and class, such as "layer1.0.conv1 (Conv2dQAT)"; where the layer itself is
        what runs, the path in the model that was prepared or calibrated, if any.
    """
    return _described(layer)


@uncompiled(reason=_FRAMES)
def siblings(layer: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of the model that is running a layer, by path.

    Args:
        layer: a module whose method is running.
    Returns:
        all modules of the outermost running model; at least the layer itself, under "".
    """
    return dict(_running_model(layer).named_modules())


def loading_strictly() -> bool:
    """Return whether a load_state_dict that is running will refuse missing keys.

    Modules are not told; the call that knows stands further up the stack.

    Returns:
        False where nothing is being loaded.
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
    """Whether torch's tracing put this module around the user's: its name is in no user's path."""
    home = type(module).__module__
    return home.startswith("torch.") and not home.startswith("torch.nn.")
