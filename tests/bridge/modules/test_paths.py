"""bridge.modules.paths: a layer's path in the model that is running."""

import copy

import torch
from torch import nn

from bridge.modules.paths import layer_path, remember_paths, siblings


class Asked(nn.Module):
    """A layer that is asked for its path while it runs."""

    def forward(self, x):
        self.path = layer_path(self)
        self.siblings = siblings(self)
        return x


def test_a_layer_on_its_own():
    layer = Asked()
    layer(torch.zeros(1))
    assert layer.path == "Asked"
    assert layer.siblings == {"": layer}


def test_a_layer_in_containers():
    layer = Asked()
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), layer))
    model(torch.zeros(1))
    assert layer.path == "1.1 (Asked)"
    assert layer.siblings == dict(model.named_modules())


def test_the_outermost_model_that_runs_counts():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.ModuleDict({"conv": Asked()})])

        def forward(self, x):
            return self.blocks[0]["conv"](x)

    inner = Inner()
    model = nn.ModuleDict({"net": inner})
    inner(torch.zeros(1))
    layer = inner.blocks[0]["conv"]
    assert layer.path == "blocks.0.conv (Asked)"
    nn.Sequential(inner)(torch.zeros(1))
    assert layer.path == "0.blocks.0.conv (Asked)"
    assert model["net"] is inner, "a parent that does not run does not count"


def test_what_calls_the_model_does_not_count():
    class Trainer:
        def __init__(self, model):
            self.model = model

        def step(self, x):
            return self.model(x)

    class Unrelated(nn.Module):
        def forward(self, x):
            return model(x)

    layer = Asked()
    model = nn.Sequential(layer)
    Trainer(model).step(torch.zeros(1))
    assert layer.path == "0 (Asked)"
    Unrelated()(torch.zeros(1))
    assert layer.path == "0 (Asked)", "it runs the model but does not hold it"


def test_a_shared_layer_has_the_first_of_its_paths():
    layer = Asked()
    model = nn.ModuleDict({"b": nn.Sequential(layer), "a": layer})

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["a"](x)

    Root()(torch.zeros(1))
    assert layer.path == "parts.b.0 (Asked)"


def test_tracing_puts_nothing_before_the_path():
    said = []

    class Saying(nn.Module):
        def forward(self, x):
            said.append(layer_path(self))
            return x + 1

    model = nn.Sequential(nn.Identity(), Saying())
    torch.export.export(model, (torch.zeros(1),), strict=False)
    assert set(said) == {"1 (Saying)"}


def test_a_path_is_remembered_where_no_model_runs():
    layer = Asked()
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), layer))
    remember_paths(model, Asked)
    layer(torch.zeros(1))
    assert layer.path == "1.1 (Asked)"
    model[1](torch.zeros(1))
    assert layer.path == "1 (Asked)", "a model that runs says more"
    remember_paths(model[1], Asked)
    remember_paths(layer, Asked)
    copy.deepcopy(model)[1][1](torch.zeros(1))
    layer(torch.zeros(1))
    assert layer.path == "1.1 (Asked)", "a part of the path says less"
    remember_paths(nn.ModuleDict({"new": layer}), Asked)
    layer(torch.zeros(1))
    assert layer.path == "new (Asked)"
