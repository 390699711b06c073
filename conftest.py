"""Options of the test run; pytest reads them before it collects anything."""

import gc
from collections.abc import Generator
from pathlib import Path

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


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path,
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Look for doctests only in files that have one: it takes most of a second elsewhere."""
    collectors = yield
    if file_path.suffix != ".py" or ">>>" in file_path.read_text(encoding="utf-8"):
        return collectors
    return [one for one in collectors if type(one) is pytest.Module]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile: imports and thousands of tests make a lot that stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
