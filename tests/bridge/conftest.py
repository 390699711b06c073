"""What tests share: one thread, one seed, and forms that no measured table decides."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from bridge.export.plan import costs
from bridge.export.read.layer import QuantizedLayer


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Use one: the tests share the machine, and a session's threads cost more than its model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def integers_first() -> Iterator[None]:
    """Prefer QLinearConv where it is proven equal, then ConvInteger, whatever was measured."""

    def estimates(
        layer: QuantizedLayer, forms: Sequence[str], *, chained: bool
    ) -> dict[str, float]:
        order = (*costs.FORMS, costs.QLINEAR_2D)
        times = {form: 1.0 + order.index(form) for form in forms}
        return times | {costs.FLOAT32: 6.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "estimates", estimates)
        yield
