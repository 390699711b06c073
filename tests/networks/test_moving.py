"""Networks whose outputs are compared must depend on their inputs."""

import pytest
import torch
from torch import nn

from examples import whole_networks
from examples.networks import mobilenet_v2, moves, settle


def test_settled_statistics_keep_a_deep_network_alive() -> None:
    torch.manual_seed(0)
    model = mobilenet_v2(width=0.25).eval()
    first, second = torch.randn(2, 2, 3, 64, 64)
    assert moves(model, first, second) < 0.001  # torch's own statistics: a constant
    assert settle(model, torch.randn(4, 3, 64, 64)) is model
    assert not model.training
    assert moves(model, first, second) > whole_networks.LEAST_MOVE


def test_a_constant_network_is_refused(tmp_path) -> None:
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(1, 4) + 0 * x.sum()

    x = torch.randn(1, 3)
    subject = whole_networks.Subject(Constant, lambda: x, lambda: x)
    with pytest.raises(RuntimeError, match="hardly depends"):
        whole_networks.run(subject, tmp_path)
