import pytest
import torch
from torch import nn

import bridge
from bridge.sensitivities import sensitivity_table


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(bridge.Conv2dQAT(1, 3, 3), nn.ReLU(), nn.Flatten(), bridge.LinearQAT(48, 4))
    x = torch.randn(5, 1, 6, 6)
    bridge.calibrate(net, [x])
    return net, x


def test_fewer_bits_and_narrower_ranges_cost_more():
    net, x = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers = bridge.sensitivity(net, x, bits=(2, 4, 8), ranges=(0.25, 0.5))
    assert [layer.path for layer in layers] == ["0", "3"]
    for layer in layers:
        assert layer.by_bits[2] > layer.by_bits[4] > layer.by_bits[8] > 0.0
        assert layer.by_range[0.25] > layer.by_range[0.5] > 0.0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert sensitivity_table(layers).row_count == 2


def test_an_uncalibrated_layer_is_named():
    net = nn.Sequential(bridge.LinearQAT(2, 2))
    with pytest.raises(ValueError, match="0 is not calibrated"):
        bridge.sensitivity(net, torch.randn(1, 2))
