"""Random torch models through either exporter: fake-quant and deploy agree in every bit."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bridge import adopt, calibrate, convert_qat_model, prepare_qat
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import Draw
from tests.support.bits import assert_same_bits
from tests.support.exporters import EXPORTERS, export_network
from tests.support.runtime import LEVELS, outputs_at

_CHANNELS = 4
_ROUND_OTHERWISE = (nn.Sigmoid, nn.Hardswish, nn.GELU, nn.AvgPool2d, nn.BatchNorm2d)
"""Modules that torch and ONNX Runtime compute with other last bits."""


class Residual(nn.Module):
    """x + inner(x), where the shapes allow it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + y if x.shape == y.shape else y


class Joined(nn.Module):
    """Both branches' channels, reduced to as many as x has."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.reduce = nn.Conv2d(2 * _CHANNELS, _CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        if left.shape != right.shape:
            right = F.interpolate(right, left.shape[2:], mode="nearest")
        return F.relu(self.reduce(torch.cat([left, right], 1)))


def _leaf(draw: Draw) -> nn.Module:
    c, kernel = _CHANNELS, draw(st.sampled_from([1, 2, 3]))
    groups, dilation = draw(st.sampled_from([1, 1, 2, c])), draw(st.sampled_from([1, 1, 2]))
    stride = draw(st.sampled_from([1, 1, 2]))
    made: dict[str, Any] = {
        "conv": lambda: nn.Conv2d(c, c, kernel, stride, kernel // 2, dilation, groups),
        "transposed": lambda: nn.ConvTranspose2d(
            c, c, kernel, stride, output_padding=stride - 1, groups=groups
        ),
        "pool": lambda: nn.MaxPool2d(kernel, stride, kernel // 2, dilation),
        "limit": lambda: draw(st.sampled_from([nn.ReLU, nn.ReLU6]))(),
        "inplace": lambda: nn.ReLU(inplace=True),
        "float": lambda: draw(st.sampled_from([nn.Sigmoid, nn.Hardswish, nn.GELU]))(),
        "average": lambda: nn.AvgPool2d(2, stride, 1),
        "norm": lambda: nn.BatchNorm2d(c),
    }
    kinds = ["conv", "conv", "conv", "transposed", "pool", *made]
    return made[draw(st.sampled_from(kinds))]()


@st.composite
def torch_models(draw: Draw) -> nn.Module:
    """Draw a tree of modules on pictures of four channels, a convolution at both ends."""
    torch.manual_seed(draw(st.integers(0, 999)))

    def tree(depth: int) -> nn.Module:
        leaves = [_leaf(draw) for _ in range(draw(st.integers(1, 3)))]
        kind = draw(st.sampled_from(["plain", "residual", "joined"])) if depth else "plain"
        if kind == "residual":
            leaves.append(Residual(tree(depth - 1)))
        elif kind == "joined":
            leaves.append(Joined(tree(depth - 1), tree(depth - 1)))
        return nn.Sequential(*leaves)

    ends = nn.Conv2d(3, _CHANNELS, 3, padding=1), nn.Conv2d(_CHANNELS, 2, 1)
    return nn.Sequential(ends[0], tree(2), ends[1]).eval()


@settings(
    share_of_examples(1 / 25),
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(model=torch_models(), exporter=st.sampled_from(list(EXPORTERS)))
def test_random_models_have_the_same_bits(model: nn.Module, exporter: str) -> None:
    """fake-quant = deploy at every level; torch too, without operators that round otherwise."""
    x = torch.randn(2, 3, 9, 8)
    try:
        model(x)
    except RuntimeError:  # a window larger than what is left of the picture
        assume(False)
    net = prepare_qat(model)
    calibrate(net, [torch.randn(2, 3, 9, 8)])
    with TemporaryDirectory() as folder:
        path = export_network(net, x, Path(folder, "inter.onnx"), dynamo=EXPORTERS[exporter])
        done = convert_qat_model(path, Path(folder, "net"))
        files = [p.read_bytes() for p in (done.fake_quant, done.deploy)]
    adopt(net, done)
    with torch.no_grad():
        y = net(x).numpy()
    same = not any(isinstance(module, _ROUND_OTHERWISE) for module in model.modules())
    for level in LEVELS:
        (fake,), (deploy,) = (outputs_at(file, x.numpy(), level) for file in files)
        assert_same_bits(deploy, fake, f"deploy at {level}")
        if same:
            assert_same_bits(fake, y, f"torch at {level}")
