"""Functional form of a model: the same numbers as the module, and nothing is changed."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from bridge import (
    Conv2dQAT,
    LinearQAT,
    MatMulQAT,
    calibrate,
    fold_batch_norm,
    functionalize,
    prepare_qat,
    to_module,
)
from tests.support.bits import same_bytes, same_state
from tests.support.modules.layers import LEARNED, config, state

RECIPROCAL = LEARNED | {"s_rec_flag": True}


def lenet(data=None, weight=None, *, norm=False):
    """A small LeNet, for 12 x 12 images."""
    chosen = config(data, weight)
    model = nn.Sequential(
        Conv2dQAT(1, 3, 3, padding=1, config=chosen),
        nn.BatchNorm2d(3) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Conv2dQAT(3, 4, 3, config=chosen),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        LinearQAT(16, 8, config=chosen),
        nn.ReLU(),
        LinearQAT(8, 5, config=chosen),
    )
    return model.train()


def batches(count, size=4):
    return torch.randn(count, size, 1, 12, 12), torch.randint(5, (count, size))


def calibrated(model, xs):
    """A functional model whose ranges are set, with its params and state."""
    f = functionalize(model)
    params, state_ = f.init()
    for x in xs:
        state_ = f.calibrate(params, state_, x)
    return f, *f.finish(params, state_)


def loss_of(f):
    return lambda params, state_, x, y: nn.functional.cross_entropy(f.apply(params, state_, x), y)


def bits(tree):
    return [leaf.detach().clone() for leaf in tree_leaves(tree)]


def same_leaves(first, second):
    return len(first) == len(second) and all(map(same_bytes, first, second))


@pytest.mark.parametrize(
    ("data", "weight"),
    [({"batch_num": 2}, {}), ({}, LEARNED), ({"asymmetric": False}, RECIPROCAL)],
    ids=["arq", "lsq", "reciprocal"],
)
@pytest.mark.parametrize("norm", [False, True])
def test_twenty_steps_are_the_modules_bit_for_bit(data, weight, norm):
    model = lenet(data, weight, norm=norm)
    xs, ys = batches(20)
    count = data.get("batch_num", 1)
    f, params, state_ = calibrated(model, xs[:count])
    calibrate(model, xs[:count])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradient = grad_and_value(loss_of(f))
    start = bits(params)
    for x, y in zip(xs, ys, strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        gradients, value = gradient(params, state_, x, y)
        _, state_ = f.update(params, state_, x)
        # A module writes what replaced a range or a scale back before it steps.
        params = {name: state_.buffers.get(f"{name}_pre", p) for name, p in params.items()}
        params = {name: p.add(gradients[name], alpha=-0.05) for name, p in params.items()}
        assert torch.equal(value, loss.detach())
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert list(trained) == list(params)
    assert same_leaves(bits(trained), bits(params))
    assert not same_leaves(start, bits(params))
    buffers = {name: b for name, b in model.named_buffers() if name in state_.buffers}
    assert same_leaves(bits(buffers), bits(state_.buffers))
    assert same_state(
        state(to_module(lenet(data, weight, norm=norm), params, state_)), state(model)
    )


def test_a_held_end_of_a_range_may_drift_in_params_but_is_held():
    xs, _ = batches(2)
    f, params, state_ = calibrated(lenet({"fixed_min": True}), xs[:1])
    drifted = {n: p - 0.1 if n.endswith("clip_min") else p for n, p in params.items()}
    y, after = f.update(drifted, state_, xs[1])
    assert torch.equal(y, f.apply(params, state_, xs[1]))
    assert after.buffers["0.acts_clip_min_pre"] == 0


def test_a_given_range_needs_no_calibration():
    model = lenet({"clip_max": 2.0}, LEARNED)
    f = functionalize(model)
    params, state_ = f.init()
    (x,), _ = batches(1)
    assert not state_.seen
    y = f.apply(params, state_, x)
    assert torch.equal(y, model(x).detach()), "the module starts its weight scales here"
    assert same_state(state(to_module(model, params, state_)), state(model))


def test_nothing_that_is_given_changes():
    model = lenet(norm=True)
    before = state(model)
    f = functionalize(model)
    xs, _ = batches(2)
    given = xs.clone()
    params, fresh = f.init()
    originals = bits((params, fresh, xs))
    f.apply(params, fresh, xs[0])
    f.update(params, fresh, xs[0])
    seen = f.calibrate(params, fresh, xs[0])
    assert same_leaves(bits((params, fresh, xs)), originals)
    originals = bits((params, seen))
    ready = f.finish(params, seen)
    assert same_leaves(bits((params, seen)), originals)
    originals = bits(ready)
    f.apply(*ready, xs[1])
    f.update(*ready, xs[1])
    assert same_leaves(bits(ready), originals)
    assert torch.equal(xs, given)
    assert same_state(state(model), before)


def test_update_returns_new_statistics_and_keeps_the_old():
    model = lenet(norm=True)
    xs, _ = batches(2)
    f, params, before = calibrated(model, xs[:1])
    mean = before.buffers["1.running_mean"].clone()
    y, after = f.update(params, before, xs[1])
    assert torch.equal(before.buffers["1.running_mean"], mean)
    calibrate(model, xs[:1])
    model.train()
    assert torch.equal(y, model(xs[1]).detach())
    assert torch.equal(after.buffers["1.running_mean"], model[1].running_mean)
    assert torch.equal(after.buffers["1.running_var"], model[1].running_var)
    assert after.buffers["1.num_batches_tracked"] == 1
    assert not torch.equal(after.buffers["1.running_mean"], mean)


def test_a_range_that_training_made_meaningless_is_replaced():
    (x,), _ = batches(1)
    f, params, state_ = calibrated(lenet(), [x])
    y = f.apply(params, state_, x)
    crossed = params | {"0.acts_clip_max": torch.tensor(-3.0)}
    z, after = f.update(crossed, state_, x)
    assert torch.equal(y, z)
    name = "0.acts_clip_max_pre"
    assert torch.equal(after.buffers[name], state_.buffers[name])


def test_apply_runs_in_the_mode_of_the_model():
    model = lenet(norm=True)
    xs, _ = batches(2)
    calibrate(model, xs[:1])
    model(xs[1])
    training = functionalize(model)
    model.eval()
    evaluating = functionalize(model)
    params, state_ = evaluating.init()
    y = evaluating.apply(params, state_, xs[0])
    assert torch.equal(y, model(xs[0]).detach())
    assert torch.equal(evaluating.update(params, state_, xs[0])[0], y)
    assert not torch.equal(training.apply(params, state_, xs[0]), y)


def test_modules_keep_modes_of_their_own():
    model = lenet(norm=True)
    model[1].eval()
    xs, _ = batches(2)
    f, params, state_ = calibrated(model, xs[:1])
    _, after = f.update(params, state_, xs[1])
    assert torch.equal(after.buffers["1.running_mean"], state_.buffers["1.running_mean"])


def test_calibration_stops_and_goes_on_in_either_form():
    xs, _ = batches(4)
    model = lenet({"batch_num": 4}, LEARNED)
    whole = copy.deepcopy(model)
    calibrate(whole, xs)
    with pytest.raises(ValueError, match="batches ran out"):
        calibrate(model, xs[:1])
    f = functionalize(model)
    params, state_ = f.init()
    state_ = f.calibrate(params, state_, xs[1])
    model = to_module(model, params, state_)
    assert int(model[0].cur_batch) == 2
    with pytest.raises(ValueError, match=r"0 \(3 of 4\)"):
        calibrate(model, xs[2:3])
    f = functionalize(model)
    params, state_ = f.init()
    params, state_ = f.finish(params, f.calibrate(params, state_, xs[3]))
    assert same_state(state(to_module(model, params, state_)), state(whole))


@pytest.mark.parametrize("data", [{}, {"clip_max": 1.0}])
def test_the_round_trip_of_a_model_that_saw_nothing(data):
    model = lenet(data, norm=True)
    params, state_ = functionalize(model).init()
    copied = to_module(model, params, state_)
    assert same_state(state(copied), state(model))
    assert copied[0].weight is not model[0].weight
    again = functionalize(copied).init()
    assert list(again[0]) == list(params)
    assert same_leaves(bits(again), bits((params, state_)))


def test_an_ensemble_is_one_vmap():
    xs, ys = batches(5)
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        # IFMR's lower ends are not 0: the tolerance is relative to the size of a parameter.
        members.append(calibrated(lenet({"range_search": "ifmr"}, norm=True), xs[:1]))
    f = members[0][0]
    gradient = grad_and_value(loss_of(f))
    together = tree_map(lambda *t: torch.stack(t), *[member[1:] for member in members])
    mapped = vmap(gradient, in_dims=(0, 0, None, None))
    params, state_ = together
    values = []
    for x, y in zip(xs, ys, strict=True):
        gradients, value = mapped(params, state_, x, y)
        params = {name: p - 0.05 * gradients[name] for name, p in params.items()}
        values.append(value)
    for i, (_, alone, state_) in enumerate(members):
        for x, y, value in zip(xs, ys, values, strict=True):
            gradients, expected = gradient(alone, state_, x, y)
            alone = {name: p - 0.05 * gradients[name] for name, p in alone.items()}
            torch.testing.assert_close(value[i], expected, rtol=1e-5, atol=0)
        for name, p in alone.items():
            scale = p.abs().max()
            torch.testing.assert_close(params[name][i] / scale, p / scale, rtol=0, atol=1e-5)
    assert not torch.allclose(values[-1][0], values[-1][1])


def test_products_and_layers_called_twice():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.product = LinearQAT(4, 4), MatMulQAT()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.product(self.fc(x), x.transpose(-1, -2)) @ x)

    model = Attention()
    x = torch.randn(3, 5, 4)
    f, params, state_ = calibrated(model, [x])
    # The second call of the first batch is still unquantized, as both are in functional form.
    other = prepare_qat(copy.deepcopy(model))
    other = to_module(other, params, state_).eval()
    assert other.product.calibrated
    assert torch.equal(f.apply(params, state_, x), other(x).detach())
    assert int(state_.buffers["fc.cur_batch"]) == 2


def test_a_trainable_fold_is_functional_too():
    model = nn.Sequential(Conv2dQAT(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    x = torch.randn(4, 1, 5, 5)
    model(x)
    folded = fold_batch_norm(model, trainable=True)
    f = functionalize(folded)
    params, state_ = f.init()
    y = f.apply(params, state_, x)
    assert torch.equal(y, folded(x).detach())
    gradients, _ = grad_and_value(lambda p: f.apply(p, state_, x).square().sum())(params)
    (gamma,) = {name for name in params if name.endswith("weight.0.norm.weight")}
    assert gradients[gamma].all()


def test_an_input_by_its_name_is_calibrated():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = LinearQAT(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(input=x)

    model = functionalize(Named())
    params, seen = model.init()
    params, _ = model.finish(params, model.calibrate(params, seen, torch.full((4, 3), 5.0)))
    assert params["fc.acts_clip_max"] > 4.0
