"""What the options of convert_qat_model may be, and which target has which."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import torch

from bridge.export.forms import TARGETS
from bridge.export.opset import OPSETS
from bridge.export.tune import Tuning

MODES = ("exact", "fast")

MAX_ULPS = 64
"""How far a rescale is moved by default: less than a hundred-thousandth of it."""

FARTHEST_ULPS = 4096
"""The upper bound of max_ulps: at most one part in 2,048 of a rescale."""


def check_options(
    *,
    target: object,
    mode: object,
    data: object,
    fold_batch_norm: object,
    max_ulps: object,
    vnni: object,
    symmetric: object,
    opset: object,
    tune: object,
    follow_symlinks: object,
) -> None:
    """Raise unless all options are of the right kind, in range, and known to the target.

    Args:
        target: as convert_qat_model's, and so are the others.
        mode: as target.
        data: as target.
        fold_batch_norm: as target.
        max_ulps: as target.
        vnni: as target.
        symmetric: as target.
        opset: as target.
        tune: as target.
        follow_symlinks: as target.
    Raises:
        TypeError: an option is of a wrong kind.
        ValueError: the target or the mode is unknown, a number is out of range, or the target
            would ignore an option.
    """
    if target not in tuple(TARGETS):
        raise ValueError(f"target must be {' or '.join(map(repr, TARGETS))}, got {target!r}")
    if mode not in MODES:
        raise ValueError(f"mode must be {' or '.join(map(repr, MODES))}, got {mode!r}")
    flags = {
        "fold_batch_norm": fold_batch_norm,
        "vnni": vnni,
        "symmetric": symmetric,
        "follow_symlinks": follow_symlinks,
    }
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, got {flag!r}")
    if not isinstance(tune, bool | Tuning):
        raise TypeError(f"tune must be True, False or a bridge.Tuning, got {tune!r}")
    _check_number("max_ulps", max_ulps, range(FARTHEST_ULPS + 1))
    if opset is not None:
        _check_number("opset", opset, OPSETS)
    given = {
        "vnni": (vnni, "ort"),
        "max_ulps": (max_ulps != MAX_ULPS, "ort"),
        "tune": (tune is not False, "ort"),
        "symmetric": (symmetric, "qdq"),
        "opset": (opset is not None, "qdq"),
        "mode 'fast'": (mode == "fast", "ort"),
    }
    for name, (asked, only) in given.items():
        if asked and target != only:
            raise ValueError(f"{name} is for target {only!r}, got target {target!r}")
    _check_data(mode, data)


def check_path(name: str, path: object) -> None:
    """Raise unless an argument is a path.

    Args:
        name: of the argument.
        path: what was given.
    Raises:
        TypeError: it is neither a str nor a path.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"{name} must be a str or a path, got {path!r:.80}")


def _check_number(name: str, number: object, allowed: range) -> None:
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be an integer, got {number!r}")
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed[0]} to {allowed[-1]}, got {number!r}")


def _check_data(mode: object, data: object) -> None:
    if mode == "exact":
        if data is not None:
            raise ValueError("data is for mode 'fast', got it with mode 'exact'")
        return
    if data is None:
        raise ValueError(
            "mode 'fast' needs data: batches of inputs, from which the values that it rounds get "
            "their ranges; convert_qat_model(..., mode='fast', data=[x])"
        )
    one: tuple[type[Any], ...] = (torch.Tensor, np.ndarray, Mapping, str, bytes)
    if isinstance(data, one) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be an iterable of batches, got one {type(data).__name__}; "
            "convert_qat_model(..., mode='fast', data=[x])"
        )
