"""Options of the test run; pytest reads them before it collects anything."""

import pytest

_OWN_WARNING = "ignore:`torch.jit.script.* is deprecated:DeprecationWarning"
"""torch's first jvp, and its compiler, script functions of torch and warn about that themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --deep, the search that is too long for every commit."""
    parser.addoption(
        "--deep",
        action="store_true",
        help="property tests: thousands of fresh random examples instead of 200 repeatable ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let one warning of torch's own pass; every other one is an error."""
    config.addinivalue_line("filterwarnings", _OWN_WARNING)
