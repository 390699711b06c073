"""Which configuration goes to which layer: patterns, classes, and the files that hold them."""

import fnmatch
import json
import tomllib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

Selector = str | type[nn.Module]
Config = Mapping[str, Any]

_FILE_KEYS = {"$schema", "default", "layers", "skip"}


def read_rules(
    config: Config | str | PathLike[str] | None,
    layers: Mapping[str, Config],
    skip: Sequence[Selector],
) -> tuple[Config | None, Mapping[str, Config], Sequence[Selector]]:
    """Bring the rules of a call and those of a configuration file together.

    Args:
        config: as prepare_qat's.
        layers: as prepare_qat's.
        skip: as prepare_qat's.
    Returns:
        the configuration of every layer, configurations by pattern, and what to skip.
    Raises:
        TypeError, ValueError: a file or a value is not what prepare_qat takes.
    """
    if config is None or isinstance(config, Mapping):
        return config, layers, skip
    if not isinstance(config, str | PathLike):
        raise TypeError(f"config must be a dict or a path, got {type(config).__name__}")
    path = Path(config)
    text = path.read_text()
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict) or set(values) - _FILE_KEYS:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path} must have keys of {sorted(_FILE_KEYS)}, got {got}")
    named, patterns = values.get("layers", {}), values.get("skip", [])
    if not isinstance(named, dict):
        raise ValueError(f"{path}: layers must map patterns to configurations, got {named!r}")
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"{path}: skip must be a list of patterns, got {patterns!r}")
    return values.get("default"), {**named, **layers}, [*patterns, *skip]


def matches(selector: Selector, path: str, module: nn.Module) -> bool:
    """Return whether a rule is about a module.

    Args:
        selector: a pattern of paths, or a class.
        path: of the module.
        module: the module.
    Returns:
        True if it matches.
    """
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(path, selector)
    return isinstance(module, selector)


def check_used(model: nn.Module, selectors: Sequence[Selector]) -> None:
    """Raise unless every rule is about a module of the model.

    Args:
        model: any module.
        selectors: patterns and classes.
    Raises:
        ValueError: a rule matches nothing.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    for selector in selectors:
        if not any(matches(selector, path, module) for path, module in modules):
            raise ValueError(f"rule {show(selector)} matches no module of the model")


def show(selector: Selector) -> str:
    """Return how a message shows a rule.

    Args:
        selector: a pattern or a class.
    Returns:
        its text.
    """
    return repr(selector) if isinstance(selector, str) else selector.__name__
