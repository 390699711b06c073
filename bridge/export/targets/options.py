"""Checks of the options of targets: type and range."""

from numbers import Integral


def check_flag(name: str, flag: object) -> None:
    """Raise unless an option is True or False.

    Args:
        name: of the option, for the message.
        flag: its value.
    Raises:
        TypeError: flag is not a bool.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, got {flag!r}")


def check_integer(name: str, number: object, allowed: range) -> None:
    """Raise unless an option is an integer in a range.

    Args:
        name: of the option, for the message.
        number: its value.
        allowed: the range.
    Raises:
        TypeError: number is not an integer.
        ValueError: number is out of range.
    """
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be an integer, got {number!r}")
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed[0]} to {allowed[-1]}, got {number!r}")
