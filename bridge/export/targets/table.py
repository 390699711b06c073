"""The table of targets, and the lookup of a target by name and options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bridge.export.targets.ascend.target import Ascend
from bridge.export.targets.ort import Ort
from bridge.export.targets.qdq import Qdq
from bridge.export.targets.target import Target

ort = Ort
qdq = Qdq
ascend = Ascend
"""The same classes in lower case, for calls such as `target=bridge.qdq(opset=13)`."""

TARGETS: Mapping[str, type[Target]] = {target.name: target for target in (ort, qdq, ascend)}


def find_target(target: object, options: Mapping[str, Any]) -> Target:
    """Return a Target as it is, or create it from its name and options.

    Args:
        target: a key of TARGETS, or a Target.
        options: of the named target, by field name; empty with a Target, which has its own.
    Returns:
        the target.
    Raises:
        TypeError: no target has such an option, an option has a wrong type, options are given
            beside a Target, or a class is given instead of a Target.
        ValueError: the target is unknown, an option belongs to another target, or a value is out
            of range.

    >>> find_target("qdq", {"opset": 13})
    Qdq(symmetric=False, opset=13)
    """
    if isinstance(target, Target):
        if options:
            one = next(iter(options))
            raise TypeError(
                f"{one} is an option of the target: target=bridge.{target.name}({one}=...)"
            )
        return target
    if isinstance(target, type) and issubclass(target, Target):
        raise TypeError(
            f"target must be a target, got its class; call it: target=bridge.{target.name}()"
        )
    names = tuple(TARGETS)
    if target not in names:
        raise ValueError(f"target must be {' or '.join(map(repr, names))}, got {target!r}")
    kind = TARGETS[str(target)]
    for name, value in options.items():
        owners = [other.name for other in TARGETS.values() if name in _options(other)]
        if not owners:
            raise TypeError(f"convert_qat_model has no option {name!r}")
        if kind.name not in owners:
            what = f"{name} {value!r}" if isinstance(value, str) else name
            raise ValueError(f"{what} is for target {owners[0]!r}, got target {target!r}")
    return kind(**options)


def _options(kind: type[Target]) -> set[str]:
    return {field.name for field in fields(kind)}
