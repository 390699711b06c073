"""Checking options: of the right kind, and in range."""

from numbers import Integral


def check_flag(name: str, flag: object) -> None:
    """Raise unless an option is True or False.

    Args:
        name: of the option.
        flag: what was given.
    Raises:
        TypeError: it is no bool.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_integer(name: str, number: object, allowed: range) -> None:
    """Raise unless an option is an integer within a range.

    Args:
        name: of the option.
        number: what was given.
        allowed: the integers that it may be.
    Raises:
        TypeError: it is no integer.
        ValueError: it is out of range.
    """
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be an integer, got {number!r}")
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed[0]} to {allowed[-1]}, got {number!r}")
