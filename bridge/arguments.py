"""Type checks of arguments that many functions share, with messages that suggest the right call."""

from collections.abc import Mapping
from numbers import Integral
from os import PathLike
from typing import Any

import torch
from torch import nn

__all__ = ["check_flag", "check_flags", "check_integer", "check_model"]


def check_model(model: Any, function: str) -> None:
    """Raise unless a model is an nn.Module with Python layers, which a ScriptModule has not.

    Args:
        model: the argument.
        function: name of the called function, for the message.
    Raises:
        TypeError: model is not an nn.Module, or is a ScriptModule.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"{function}: a ScriptModule's layers cannot be replaced; give the model that "
            "torch.jit.script or torch.jit.trace was called on"
        )
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type) and issubclass(model, nn.Module):
        got, hint = f"the class {model.__name__}", f"; give an instance, {model.__name__}(...)"
    elif isinstance(model, Mapping):
        got = f"{type(model).__name__} with {len(model)} keys"
        hint = "; build the network and call its load_state_dict" if _is_state(model) else ""
    elif isinstance(model, str | PathLike):
        got, hint = repr(model), "; load the model first"
    elif isinstance(model, torch.export.ExportedProgram):
        got, hint = "an ExportedProgram", "; give the model that was exported"
    else:
        got, hint = type(model).__name__ if model is not None else "None", ""
    raise TypeError(f"{function}: model must be a torch.nn.Module, got {got}{hint}")


def check_flags(function: str, **flags: Any) -> None:
    """Raise unless flags are True or False.

    Args:
        function: name of the called function, for the message.
        flags: arguments by name.
    Raises:
        TypeError: an argument is not a bool.
    """
    for name, value in flags.items():
        check_flag(f"{function}: {name}", value)


def check_flag(name: str, flag: Any) -> None:
    """Raise unless an argument or option is True or False.

    Args:
        name: its name, for the message.
        flag: its value.
    Raises:
        TypeError: it is not a bool.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_integer(name: str, number: Any, allowed: range) -> None:
    """Raise unless an argument or option is an integer within a range.

    Args:
        name: its name, for the message.
        number: its value; NumPy integers are integers too, bool is not.
        allowed: the integers that it may be.
    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of range.
    """
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be an integer, got {number!r}")
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed[0]} to {allowed[-1]}, got {number!r}")


def _is_state(values: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in values.values())
