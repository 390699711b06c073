"""Which layers are not replaced although their class has an operator, and what the plan says."""

import functools
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from bridge import plan_batch_norm, plan_qat, prepare_qat


def reasons(model):
    return {plan.path: plan.reason for plan in plan_qat(model) if plan.action == "unsupported"}


def circular(self, x, weight, bias):
    return F.conv2d(F.pad(x, (1,) * 4, mode="circular"), weight, bias)


def patched(layer, name, value):
    setattr(layer, name, types.MethodType(value, layer))
    return layer


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (patched(nn.Conv2d(3, 4, 3), "_conv_forward", circular), "_conv_forward"),
        (patched(nn.Conv2d(3, 4, 3), "forward", lambda self, x: x), "forward"),
        (patched(nn.Linear(3, 4), "forward", lambda self, x: x), "forward"),
        (
            patched(nn.ConvTranspose1d(3, 4, 2), "_output_padding", lambda *_: [0]),
            "_output_padding",
        ),
    ],
)
def test_patched_instances(layer, name):
    model = nn.Sequential(layer, nn.Linear(2, 2))
    assert reasons(model) == {
        "0": f"{name} is patched on this instance: it may compute something else"
    }
    model[1] = nn.Linear(50, 50)
    assert prepare_qat(model, inplace=True)[0] is layer


def test_a_patched_class(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", circular)
    assert reasons(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))) == {
        "0": "_conv_forward of its class is not torch's own: it may compute something else"
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("hook", "undo"),
    [
        (weight_norm, "torch.nn.utils.remove_weight_norm"),
        (spectral_norm, "torch.nn.utils.remove_spectral_norm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 2), "torch.nn.utils.prune.remove"),
        (lambda layer: prune.l1_unstructured(layer, "bias", 2), "torch.nn.utils.prune.remove"),
    ],
)
@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(3, 4, 3), lambda: nn.Linear(3, 4)])
def test_hooks_that_compute_a_tensor(hook, undo, layer):
    (reason,) = reasons(nn.Sequential(hook(layer()), nn.Conv2d(3, 64, 3))).values()
    assert "is not a parameter" in reason
    assert undo in reason


def test_a_weight_that_is_an_ordinary_tensor():
    layer = nn.Linear(2, 2)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    assert reasons(nn.Sequential(layer, nn.Linear(9, 9))) == {"0": "its weight is not a parameter"}


def test_shapes_that_are_not_known_or_not_those_of_the_layer():
    layer = nn.Conv2d(3, 4, 3)
    layer.weight = nn.Parameter(layer.weight[:2].detach())
    model = nn.Sequential(nn.LazyConv2d(4, 3), layer, nn.Linear(9, 9))
    assert reasons(model) == {
        "0": "its shapes are not known yet: call the model once on an example first",
        "1": "its weight has shape (2, 3, 3, 3), its hyperparameters imply (4, 3, 3, 3)",
    }


def test_scripted_parts_and_models():
    inner = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2)))
    assert reasons(nn.Sequential(inner, nn.Linear(50, 50))) == {
        "0": "a ScriptModule's layers cannot be replaced: prepare the model before it is scripted"
    }
    for call in (plan_qat, prepare_qat):
        with pytest.raises(TypeError, match="a ScriptModule's layers cannot be replaced; give the"):
            call(inner)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_layers_that_are_quantized_already():
    quantized = torch.ao.nn.quantized.dynamic.Linear(3, 3)
    assert reasons(nn.Sequential(quantized, nn.Linear(3, 3))) == {
        "0": "quantized by torch.ao already: prepare the float model"
    }


def test_names_that_a_quantized_layer_needs():
    layer = nn.Linear(2, 2)
    layer.config = {"mine": 1}
    layer.register_buffer("acts_scale", torch.ones(1))
    assert reasons(nn.Sequential(layer, nn.Linear(9, 9))) == {
        "0": "it has attributes that a quantized layer defines itself: acts_scale, config"
    }


class TransposedLinear(nn.Module):
    """As transformers' Conv1D."""

    def __init__(self, ours=3, theirs=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(theirs, ours))
        self.bias = nn.Parameter(torch.randn(ours))

    def forward(self, x):
        size = (*x.size()[:-1], len(self.bias))
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


def scores(q, k):
    return q @ k.transpose(-2, -1)


class Products(nn.Module):
    def resize(self, x):
        return x @ x  # nothing calls it

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.mix = TransposedLinear()

    def forward(self, x):
        y = self.linear(x)
        return self.mix(self.attend(y))

    def attend(self, y):
        return torch.softmax(scores(y, y), -1).bmm(y) + torch.einsum("ijk->ijk", y)


def decorated(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 4, 4))

    @decorated
    def forward(self, x):
        return torch.stack([F.linear(x, weight) for weight in self.weights])


def test_products_that_no_layer_does_are_in_the_plan():
    model = nn.Sequential(Products(), Experts(), nn.Linear(99, 99))
    matmul = "use bridge.MatMulQAT for products of two activations"
    weight = "hold its weight in an nn.Linear or nn.Conv and call that"
    assert reasons(model) == {
        "0": f"@, bmm, torch.einsum in its own code stays in float: {matmul}",
        "0.mix": f"torch.addmm in its own code stays in float: {weight}, or register it "
        "(bridge.register_layer)",
        "1": f"F.linear in its own code stays in float: {weight}",
    }
    skipped = plan_qat(model, skip=Experts)
    assert [plan.action for plan in skipped if plan.path == "1"] == ["skipped"]


def test_layers_that_are_not_registered_are_in_the_plan():
    model = nn.Sequential(nn.Linear(4, 4))
    model.blocks = [nn.Sequential(nn.Conv2d(1, 1, 1))]
    assert reasons(model) == {
        "blocks[0].0": "held in a module that is not registered, so it is not a submodule: "
        "register it"
    }


def test_code_that_was_generated():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x

    traced = torch.fx.symbolic_trace(nn.Sequential(Product(), nn.Linear(4, 4)))
    assert [(plan.path, plan.action) for plan in plan_qat(traced)] == [
        ("1", "quantized"),
        ("", "unsupported"),
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda example: prepare_qat(nn.Sequential(nn.Linear(4, 4)), example=example),
        lambda example: plan_batch_norm(nn.Sequential(nn.BatchNorm1d(4)), example=example),
    ],
)
def test_an_example_that_the_model_does_not_take(call):
    with pytest.raises(TypeError, match=r"example is a tuple of 2, and Sequential.forward takes"):
        call((torch.ones(1, 4), torch.ones(1)))


def test_attention_counts():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = F.scaled_dot_product_attention(x, x, x)
            return self.fc(y[0, 0])

    x = torch.randn(1, 2, 16, 4)  # 2 * 2 * 16 * 16 * 4 products of activations, 16 * 4 * 4 others
    with pytest.warns(UserWarning, match="only 6% of the multiply-accumulates"):
        prepare_qat(Attention(), example=x)


def test_little_that_will_be_in_integers_is_said_in_a_line():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 9, 3, padding_mode="reflect", padding=1))
    with pytest.warns(UserWarning, match=r"only 25% of the weights \(give example= .*plan_qat"):
        prepare_qat(model)
    with pytest.warns(UserWarning, match=r"only 25% of the multiply-accumulates will be in int"):
        prepare_qat(model, example=torch.ones(1, 3, 4, 4))
    model[1].stride = (2, 2)  # a quarter of the places
    prepare_qat(model, example=torch.ones(1, 3, 4, 4))
    prepare_qat(model, skip="1")  # what the caller leaves out is no surprise
    prepare_qat(model, include="0")
    assert model.training
