"""The example of docs/subclasses.md runs."""

import re

import torch
from torch import nn

import bridge
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "subclasses.md"


def test_the_example_runs_and_computes_what_the_class_does():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "example"}
    exec(code, names)
    net = names["net"]
    assert isinstance(net, nn.Module)
    layer, original = net[0], bridge.float_model(net)[0]
    layer.quantizes_input = layer.quantizes_weight = False
    x = torch.randn(2, 2, 9)
    # One convolution pads within, the other before: float sums may be in another order.
    torch.testing.assert_close(layer(x), original(x))
    assert layer(x).shape == (2, 4, 9)
