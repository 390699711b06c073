"""Whole prepared models under torch.compile, in one graph, and torch.export."""

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bridge import (
    Conv2dQAT,
    LinearQAT,
    MatMulQAT,
    calibrate,
    functionalize,
)
from tests.support.bits import same_bits, same_state
from tests.support.functions.composed import without_fusing
from tests.support.modules.layers import config, state


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """A convolution, a product, a linear layer; trained scales beside ARQ's; a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        learned = config(None, {"weights_retrain_algo": "ulq_retrain"})
        self.stem = nn.Sequential(Conv2dQAT(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.product = MatMulQAT()
        self.head = LinearQAT(6, 3, config=learned)
        self.saving = False

    def forward(self, x: Tensor) -> Tensor:
        x = self._part(self.stem, x)
        return self._part(self.head, self._part(self.product, x, x.mT))

    def _part(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        return checkpoint(layer, *inputs, use_reentrant=False) if self.saving else layer(*inputs)


@pytest.fixture
def net() -> tuple[nn.Module, Tensor]:
    model, x = Net(), torch.randn(4, 1, 8, 8)
    calibrate(model, [x])
    model(x)  # starts nothing more: what is left is to train
    return model, x


def gradients(model: nn.Module, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    y.square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Any, wanted: Any) -> None:
    # The composition that is compiled sums gradients in another order than the fused operator.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_model_has_the_bits_and_gradients_of_the_eager_one(net, training):
    eager, x = net
    eager.train(training)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for scale in (1.0, 1.5):
        y, wanted = compiled(scale * x), eager(scale * x)
        assert same_bits(y, wanted)
        found = gradients(model, y)
        assert_close(found, gradients(eager, wanted))
        assert found["stem.0.acts_clip_max"] != 0
    assert same_state(state(model), state(eager))


def test_a_compiled_model_has_the_bits_of_the_composition_forward_and_backward(net):
    eager, x = net
    model = copy.deepcopy(eager)
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    with without_fusing():
        wanted = eager(x)
    assert same_bits(y, wanted)
    found, expected = gradients(model, y), gradients(eager, wanted)
    assert list(found) == list(expected)
    assert all(same_bits(found[name], expected[name]) for name in found)


def test_a_compiled_model_with_checkpoints_has_the_same_gradients(net):
    eager, x = net
    plain, saving = copy.deepcopy(eager), copy.deepcopy(eager)
    saving.saving = True
    results = []
    for model in (plain, saving):
        y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        results.append((y, gradients(model, y)))
    (y, wanted), (saved_y, found) = results
    assert same_bits(saved_y, y)
    assert list(found) == list(wanted)
    assert all(same_bits(found[name], wanted[name]) for name in found)
    assert_close(found, gradients(eager, eager(x)))
    assert same_state(state(saving), state(plain))


def test_a_compiled_step_replaces_a_crossed_range():
    eager, x = LinearQAT(5, 3), torch.randn(4, 5)
    calibrate(eager, [x])
    with torch.no_grad():
        eager.acts_clip_max.fill_(-3.0)
    model = copy.deepcopy(eager)
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert same_bits(y, eager(x))
    assert model.acts_clip_max > 0
    assert same_state(state(model), state(eager))


@pytest.fixture
def small() -> tuple[nn.Module, Tensor]:
    model, x = nn.Sequential(LinearQAT(5, 6), nn.ReLU(), LinearQAT(6, 3)), torch.randn(4, 5)
    calibrate(model, [x])
    return model, x


BAD = {
    "rank": (torch.randn(4), RuntimeError, r"0 \(LinearQAT\): input must have rank 2 or more"),
    "features": (torch.randn(4, 7), RuntimeError, r"0 \(LinearQAT\): expected .* 5 features.* 7"),
    "dtype": (torch.randn(4, 5).double(), ValueError, r"0 \(LinearQAT\): input must be float32"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_compiled_layer_says_what_an_eager_one_says(small, what):
    model, (x, error, message) = small[0][:1].eval(), BAD[what]
    with pytest.raises(error, match=message) as eager:
        model(x)
    for call in (model, lambda x: model(x)):
        compiled = torch.compile(call, backend="eager")
        compiled(small[1])
        with pytest.raises(error, match=message) as found:
            compiled(x)
        assert type(found.value) is error
        assert str(found.value) == str(eager.value)
        torch._dynamo.reset()
        # In one graph torch.compile wraps the error into one of its own, a RuntimeError.
        with pytest.raises(RuntimeError, match=message):
            torch.compile(call, backend="eager", fullgraph=True)(x)


class Uncalibrated(nn.Module):
    def __init__(self, batch_num: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        data = {"batch_num": batch_num}
        learned = {"weights_retrain_algo": "ulq_retrain"}
        self.first = Conv2dQAT(1, 4, 3, config=config(data))
        self.product = MatMulQAT(config=config(data))
        self.last = LinearQAT(6, 3, config=config(data, learned))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(self.product(x, x.mT))


@pytest.mark.parametrize("fullgraph", [True, False])
def test_compiled_before_it_is_calibrated(fullgraph):
    eager, x = Uncalibrated(1).eval(), torch.randn(4, 1, 8, 8)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
    with pytest.warns(UserWarning, match=r"^(first|product|last) \(\w+QAT\) is not calibrated: "):
        assert same_bits(compiled(x), eager(x))
    calibrate(model, [x])
    calibrate(eager, [x])
    assert same_bits(compiled(2 * x), eager(2 * x))
    assert same_state(state(model), state(eager))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_model_calibrates_in_training():
    eager = Uncalibrated(3)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, backend="eager")
    for _ in range(5):
        x = torch.randn(4, 1, 8, 8)
        assert same_bits(compiled(x), eager(x))
        assert same_state(state(model), state(eager))
    assert model.last.calibrated


def test_one_graph_cannot_calibrate_and_says_what_to_do():
    compiled = torch.compile(LinearQAT(5, 3), backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"call bridge\.calibrate\(model, batches\) first"):
        compiled(torch.randn(2, 5))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor(small):
    eager, x = small[0][:1], small[1]
    model = copy.deepcopy(eager)
    y, wanted = torch.compile(model, fullgraph=True)(x), eager(x)
    assert same_bits(y, wanted)
    assert_close(gradients(model, y), gradients(eager, wanted))


def test_compiling_torch_func_grad_keeps_every_gradient(small):
    model, x = small
    pure = functionalize(model)
    params, seen = pure.init()

    def loss(params: Any) -> Tensor:
        return pure.apply(params, seen, x).square().mean()

    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")(params)
    assert_close(compiled, torch.func.grad(loss)(params))
    assert all(gradient.any() for gradient in compiled.values())


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_has_the_models_bits(small, strict):
    model, x = small
    program = torch.export.export(model.eval(), (x,), strict=strict)
    assert same_bits(program.module()(1.5 * x), model(1.5 * x))
