"""One thread for torch, and one seed."""

import pytest
import torch

from tests.support.fixtures import one_thread  # noqa: F401


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
