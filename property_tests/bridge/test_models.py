"""Whole models: there and back between float, quantized and functional form, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bridge import calibrate, float_model, functionalize, prepare_qat, to_module
from bridge.export.pipeline import convert_model
from bridge.modules import LAYER_CLASSES
from bridge.modules.weighted import calibrating
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import Draw
from tests.support.graphs.builders import Graph, add_layer
from tests.support.modules.case import Case

_SIZE = 3
_LEAVES = ("linear", "conv", "norm", "relu", "again", "tied")


class Branches(nn.ModuleDict):
    """Runs its modules one after another, under names."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self.values():
            x = module(x)
        return x


class Across(nn.Module):
    """A convolution over rows of features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(1)).squeeze(1)


@st.composite
def models(draw: Draw) -> nn.Module:
    """Draw a tree of modules on (N, 3); layers recur, and some share a Parameter."""
    torch.manual_seed(draw(st.integers(0, 999)))
    linears: list[nn.Module] = []

    def leaf() -> nn.Module:
        word = draw(st.sampled_from(_LEAVES))
        if word == "again" and linears:
            return draw(st.sampled_from(linears))
        made = {"conv": Across, "norm": lambda: nn.BatchNorm1d(_SIZE), "relu": nn.ReLU}.get(word)
        if made is not None:
            return made()
        linear = nn.Linear(_SIZE, _SIZE, bias=draw(st.booleans()))
        if word == "tied" and linears:
            linear.weight = draw(st.sampled_from(linears)).weight
        linears.append(linear)
        return linear

    def tree(depth: int) -> nn.Module:
        if depth == 0 or draw(st.booleans()):
            return leaf()
        children = [tree(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        if draw(st.booleans()):
            return nn.Sequential(*children)
        return Branches({f"m{i}": child for i, child in enumerate(children)})

    return tree(3).train(draw(st.booleans()))


def _prepared(model: nn.Module, config: dict[str, Any], **options: Any) -> nn.Module:
    """Prepare a model; one that has no layer to quantize is warned of, and no other."""
    if any(isinstance(module, tuple(LAYER_CLASSES)) for module in model.modules()):
        return prepare_qat(model, config, **options)
    with pytest.warns(UserWarning, match="has no layer that could be quantized"):
        return prepare_qat(model, config, **options)


@st.composite
def configurations(draw: Draw) -> dict[str, Any]:
    data = {"batch_num": draw(st.integers(1, 2)), "asymmetric": draw(st.booleans())}
    if draw(st.booleans()):
        data["clip_max"] = 1.5
    algorithm = draw(st.sampled_from(["arq_retrain", "ulq_retrain"]))
    weight = {"weights_retrain_algo": algorithm, "s_rec_flag": draw(st.booleans())}
    return {"retrain_data_config": data, "retrain_weight_config": weight}


def _bits(values: dict[str, Tensor]) -> dict[str, Any]:
    return {
        name: (value.dtype, value.shape, value.detach().numpy().tobytes())
        for name, value in values.items()
    }


def _ties(model: nn.Module) -> list[int]:
    """For each name of a parameter, the number of the Parameter behind it."""
    order: dict[int, int] = {}
    return [
        order.setdefault(id(p), len(order))
        for name, p in model.named_parameters(remove_duplicate=False)
        if name.endswith(("weight", "bias"))
    ]


def _kinds(model: nn.Module) -> dict[str, tuple[type, bool]]:
    return {
        path: (type(module), module.training)
        for path, module in model.named_modules(remove_duplicate=False)
    }


@given(models(), configurations(), st.booleans())
def test_prepare_and_back_is_the_model_itself(model: nn.Module, config: Any, inplace: bool) -> None:
    """float_model(prepare_qat(m)) has the state, classes, modes, hooks and ties of m."""
    kinds, ties = _kinds(model), _ties(model)
    calls: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: calls.append(path))
    model(torch.ones(2, _SIZE))
    expected, calls[:] = list(calls), []
    saved = _bits(model.state_dict())  # BatchNorm saw a batch
    quantized = _prepared(model, config, inplace=inplace)
    assert not any(type(module) in LAYER_CLASSES for module in quantized.modules())
    assert _ties(quantized) == ties, "one storage stays one"
    back = float_model(quantized, inplace=inplace)
    assert _bits(back.state_dict()) == saved
    assert _kinds(back) == kinds
    assert _ties(back) == ties
    back(torch.ones(2, _SIZE))
    assert calls == expected, "hooks are called as ever"


_DERIVED = {"acts_scale", "acts_offset_deploy", "wts_offsets_deploy", "s_rec_flag"}
"""The buffers that are computed from the rest."""


@share_of_examples(1 / 2)
@given(models(), configurations(), st.integers(0, 3))
def test_functional_form_and_back_is_the_model(model: nn.Module, config: Any, seen: int) -> None:
    """m, its functional form and to_module of that compute and hold the same."""
    model = _prepared(model, config)
    with calibrating(model), torch.no_grad():
        for x in torch.randn(seen, 4, _SIZE):
            model(x)
    functional = functionalize(model.train())
    params, state = functional.init()
    made = to_module(model, params, state)
    again = functionalize(made).init()
    assert _bits(again[0]) == _bits(params)
    assert _bits(again[1].buffers) == _bits(state.buffers)
    assert {k: _bits(v._asdict()) for k, v in again[1].seen.items()} == {
        k: _bits(v._asdict()) for k, v in state.seen.items()
    }
    if not state.seen:
        x = torch.ones(2, _SIZE)
        y, after = functional.update(params, state, x)
        assert _bits({"y": y}) == _bits({"y": model(x)}) == _bits({"y": made(x)})
        assert _bits(made.state_dict()) == _bits(model.state_dict())
        kept = {n: b for n, b in model.named_buffers() if n in after.buffers}
        assert _bits(after.buffers) == _bits(kept)
        left = {n.rpartition(".")[2] for n, _ in model.named_buffers()} - {
            n.rpartition(".")[2] for n in kept
        }
        assert left <= _DERIVED


@share_of_examples(1 / 10)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=5), st.integers(0, 999))
def test_tied_layers_have_one_initializer(owners: list[int], seed: int) -> None:
    """As many weights in fake-quant and deploy as there are Parameters."""
    torch.manual_seed(seed)
    layers = [nn.Linear(_SIZE, _SIZE) for _ in owners]
    for layer, owner in zip(layers, owners, strict=True):
        layer.weight = layers[owners.index(owner)].weight
    model = prepare_qat(nn.Sequential(*layers))
    x = torch.randn(4, _SIZE)
    calibrate(model, [x])
    graph, value = Graph(), "x"
    for i, layer in enumerate(model.eval()):
        value = add_layer(graph, Case(layer=layer, x=x), value, f"{i}")
    for converted in convert_model(graph.model(value, 2))[:2]:
        shapes = [np.shape(v.const_value) for v in converted.graph.initializers.values()]
        assert shapes.count((_SIZE, _SIZE)) == len(set(owners))
