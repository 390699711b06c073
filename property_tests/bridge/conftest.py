"""One thread for torch."""

from tests.support.fixtures import one_thread  # noqa: F401
