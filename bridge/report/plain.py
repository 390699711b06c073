"""Conversion of results to dicts, lists, strings and numbers, which JSON can represent."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Convert a value to types that JSON can represent.

    Dataclasses become dicts of their fields and properties by name; keys of mappings become str;
    sequences and arrays become lists, paths str. A float that is not finite becomes "inf", "-inf"
    or "nan", which float() parses.

    Args:
        value: None, a bool, a number, a str, a path, an array, a dataclass, or a mapping or
            sequence of these.
    Returns:
        None, bool, int, finite float, str, or a list or dict of these.
    Raises:
        TypeError: the value contains another type.

    >>> plain({"ulps": np.array([1, 2]), 8: (0.5, math.inf)})
    {'ulps': [1, 2], '8': [0.5, 'inf']}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _names(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [plain(one) for one in value]
    raise TypeError(f"no JSON for {type(value).__name__}: {value!r}")


def _names(value: Any) -> Iterator[str]:
    """Yield the names of a dataclass's fields, then of its properties."""
    yield from (field.name for field in dataclasses.fields(value))
    yield from (name for name, one in vars(type(value)).items() if isinstance(one, property))
