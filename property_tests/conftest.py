"""Two depths of search: `ci`, which repeats itself, and `deep` (pytest --deep), which does not."""

import pytest
from hypothesis import settings

settings.register_profile("ci", max_examples=150, derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "deep", max_examples=5000, derandomize=False, deadline=None, print_blob=True
)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("deep" if config.getoption("--deep") else "ci")
