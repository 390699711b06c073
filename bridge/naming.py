"""What to call a layer in a message: its path in the model that is running."""

import inspect

from torch import nn


def layer_path(layer: nn.Module) -> str:
    """Return a layer's path in the outermost module whose forward is running.

    A module does not know its own name. The model that called it does, and stands further up
    the stack; looking there costs milliseconds, so only messages do it.

    Args:
        layer: a module whose method is running.
    Returns:
        its dotted path and class, such as "layer1.0.conv1 (Conv2dQAT)"; the class alone where
        the layer itself is what runs.
    """
    path = _paths(layer).get(id(layer), "")
    kind = type(layer).__name__
    return f"{path} ({kind})" if path else kind


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


def _paths(layer: nn.Module) -> dict[int, str]:
    return {id(module): path for path, module in siblings(layer).items()}


def _running_model(layer: nn.Module) -> nn.Module:
    model = layer
    frame = inspect.currentframe()
    while frame is not None:
        candidate = frame.f_locals.get("self")
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
