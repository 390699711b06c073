"""Which configuration applies to which layer: patterns, classes, and configuration files."""

import fnmatch
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

Selector = str | type[nn.Module]
Selectors = Selector | Sequence[Selector]
Config = Mapping[str, Any]

_FILE_KEYS = {"$schema", "default", "layers", "skip"}


class Rules(NamedTuple):
    """Which configuration applies to which layer."""

    default: Config | None
    """The configuration of the layers that no pattern matches."""
    layers: Mapping[str, Config]
    """Configurations by pattern; the first match wins."""
    skip: Sequence[Selector]
    """Patterns and classes of layers that stay in float."""
    include: Sequence[Selector] | None
    """Patterns and classes of the only layers to replace, None for all layers."""


def read_rules(
    config: Config | str | PathLike[str] | None,
    *,
    include: Selectors | None,
    skip: Selectors,
    layers: Mapping[str, Config] | None,
) -> Rules:
    """Merge the rules of a call with those of its configuration file.

    Args:
        config: as prepare_qat's.
        include: as prepare_qat's.
        skip: as prepare_qat's.
        layers: as prepare_qat's.
    Returns:
        the rules.
    Raises:
        TypeError: an argument has a wrong type.
        ValueError: the configuration file cannot be read, or a value in it is wrong.
    """
    chosen = None if include is None else _selectors("include", include)
    default, named, patterns = _read_config(config)
    return Rules(
        default=default,
        layers={**named, **_configurations("layers", layers or {})},
        skip=[*patterns, *_selectors("skip", skip)],
        include=chosen,
    )


def _selectors(name: str, given: Any) -> list[Selector]:
    """Return one selector or several as a list."""
    if given is None:
        return []
    several = [given] if isinstance(given, str | type) else given
    if not isinstance(several, Iterable) or isinstance(several, Mapping | nn.Module):
        raise TypeError(f"{name} must be patterns or classes, got {given!r}")
    several = list(several)
    for one in several:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            kind = f"a {type(one).__name__}: give its path" if isinstance(one, nn.Module) else one
            raise TypeError(
                f"{name} must hold patterns of paths or classes of modules, got {kind!r}"
            )
    return several


def _configurations(name: str, given: Any) -> Mapping[str, Config]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must map patterns to configurations, got {given!r}")
    for pattern, config in given.items():
        if config is not None and not isinstance(config, Mapping):
            raise TypeError(f"{name}[{pattern!r}] must be a configuration dict, got {config!r}")
    return given


def _read_config(
    config: Config | str | PathLike[str] | None,
) -> tuple[Config | None, Mapping[str, Config], Sequence[Selector]]:
    """Return the default configuration, the configurations by pattern, and patterns to skip."""
    if config is None or isinstance(config, Mapping):
        return config, {}, ()
    if not isinstance(config, str | PathLike):
        raise TypeError(f"config must be a dict or a path, got {type(config).__name__}")
    path = Path(config)
    if path.suffix.lower() not in (".json", ".toml"):
        raise ValueError(f"{path}: a configuration file must be .json or .toml")
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"{path} is empty; it must have keys of {sorted(_FILE_KEYS)}")
    try:
        values = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict) or set(values) - _FILE_KEYS:
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path} must have keys of {sorted(_FILE_KEYS)}, got {got}")
    named, patterns = values.get("layers", {}), values.get("skip", [])
    try:
        _configurations("layers", named)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(f"{path}: skip must be a list of patterns, got {patterns!r}")
    default = values.get("default")
    if default is not None and not isinstance(default, dict):
        raise ValueError(f"{path}: default must be a configuration, got {default!r}")
    return default, named, patterns


def matches(selector: Selector, path: str, module: nn.Module) -> bool:
    """Return whether a selector matches a module.

    Args:
        selector: a pattern of paths (as fnmatch's), or a class.
        path: of the module.
        module: the module.
    Returns:
        True if the path matches the pattern, or the module is an instance of the class.
    """
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(path, selector)
    return isinstance(module, selector)


def check_used(model: nn.Module, selectors: Sequence[Selector]) -> None:
    """Raise unless every selector matches a module of the model.

    Args:
        model: any module.
        selectors: patterns and classes.
    Raises:
        ValueError: a selector matches no module.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    for selector in selectors:
        if not any(matches(selector, path, module) for path, module in modules):
            raise ValueError(f"rule {show(selector)} matches no module of the model")


def show(selector: Selector) -> str:
    """Return a selector as text for messages.

    Args:
        selector: a pattern or a class.
    Returns:
        the quoted pattern, or the name of the class.
    """
    return repr(selector) if isinstance(selector, str) else selector.__name__
