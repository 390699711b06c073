"""transform: a network of pure functions, calibrated, trained and mapped without any module."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_leaves, tree_map

from qatfunc import ActivationSpec, Clip, LayerSpec, SearchSpec, WeightSpec, calibration, operators
from qatfunc.model import LayerState, transform
from tests.support.bits import same_bits

SPEC = LayerSpec()


def net(quantized: Any, x: Tensor) -> Tensor:
    x = torch.relu(quantized("conv", operators.conv1d, x, padding=1))
    return quantized("fc", operators.linear, x.flatten(1))


def weights(seed: int = 0) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    return {
        "conv": {
            "weight": torch.randn(3, 2, 3, generator=random),
            "bias": torch.randn(3, generator=random),
        },
        "fc": {"weight": torch.randn(4, 15, generator=random)},
    }


def batch(seed: int = 1) -> Tensor:
    return torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(seed))


def ready(seed: int = 0) -> tuple[Any, Any, Any]:
    model = transform(net, SPEC)
    params, state = model.init(weights(seed))
    return model, *model.finish(params, model.calibrate(params, state, batch()))


def assert_same(first: Any, second: Any) -> None:
    a, b = tree_leaves(first), tree_leaves(second)
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def copied(tree: Any) -> Any:
    return tree_map(lambda t: t.detach().clone(), tree)


def test_init_returns_the_params_and_a_state_that_saw_nothing():
    given = weights()
    params, state = transform(net, SPEC).init(given)
    assert_same(params, given)
    assert list(state) == ["conv", "fc"]
    for layer in state.values():
        assert isinstance(layer, LayerState)
        assert layer.seen.batches == 0


def test_apply_without_ranges_leaves_inputs_as_they_are():
    model = transform(net, SPEC)
    params, state = model.init(weights())
    x = batch()
    y = operators.conv1d(x, params["conv"], SPEC, padding=1)
    expected = operators.linear(torch.relu(y).flatten(1), params["fc"], SPEC)
    assert same_bits(model.apply(params, state, x), expected)


def test_calibrate_sees_each_operators_input():
    model = transform(net, SPEC)
    params, state = model.init(weights())
    for seed in (1, 2):
        state = model.calibrate(params, state, batch(seed))
    assert {name: int(layer.seen.batches) for name, layer in state.items()} == {"conv": 2, "fc": 2}
    both = torch.cat([batch(1).flatten(), batch(2).flatten()])
    assert torch.equal(state["conv"].seen.values.sort().values, both.sort().values)


def test_finish_sets_what_the_search_finds():
    search = SearchSpec(batch_num=1)
    model = transform(net, SPEC, search)
    params, state = model.init(weights())
    seen = model.calibrate(params, state, batch())
    trained, after = model.finish(params, seen)
    expected = calibration.finish(seen["conv"].seen, SPEC.activation, search)
    assert_same(trained["conv"]["clip"], expected)
    assert_same(after["conv"].previous, expected)
    assert after["conv"].seen.batches == 0
    assert list(trained["conv"]) == ["weight", "bias", "clip"]
    assert_same(
        {n: trained[n]["weight"] for n in trained}, {n: params[n]["weight"] for n in params}
    )


def test_apply_is_the_operators_composed():
    model, params, state = ready()
    x = batch(3)
    y = torch.relu(operators.conv1d(x, params["conv"], SPEC, padding=1)).flatten(1)
    assert same_bits(model.apply(params, state, x), operators.linear(y, params["fc"], SPEC))


def test_calibrating_again_ignores_the_ranges():
    model, params, state = ready()
    again = model.finish(params, model.calibrate(params, state, batch()))
    assert_same(again, (params, state))


def test_nothing_that_is_given_changes():
    model = transform(net, SPEC)
    given, x = weights(), batch()
    before = copied((given, x))
    params, state = model.init(given)
    fresh = copied((params, state))
    seen = model.calibrate(params, state, x)
    model.apply(params, state, x)
    assert_same((params, state), fresh)
    assert "clip" not in params["conv"]
    kept = copied((params, seen))
    done = model.finish(params, seen)
    assert_same((params, seen), kept)
    kept = copied(done)
    model.update(*done, x)
    model.apply(*done, x)
    assert_same(done, kept)
    assert_same((given, x), before)


def test_update_remembers_the_last_valid_range():
    model, params, state = ready()
    x = batch()
    moved = {**params, "conv": {**params["conv"], "clip": Clip(*torch.tensor([2.0, -1.0]))}}
    y, after = model.update(moved, state, x)
    assert same_bits(y, model.apply(moved, state, x))
    assert after["conv"].previous.max > 1.9
    assert not torch.equal(after["conv"].previous.max, state["conv"].previous.max)
    assert_same(after["fc"].previous, state["fc"].previous)
    crossed = {**params, "conv": {**params["conv"], "clip": Clip(*torch.tensor([-2.0, 1.0]))}}
    z, last = model.update(crossed, after, x)
    assert same_bits(z, y), "a range without meaning gives way to the last valid one"
    assert_same(last, after)


def test_previous_ranges_carry_no_gradient():
    model, params, state = ready()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), params)
    _, after = model.update(leaves, state, batch())
    assert not any(t.requires_grad for t in tree_leaves(after))


def test_gradients_are_autograds_and_training_reduces_the_loss():
    model, params, state = ready()
    x, target = batch(), torch.randn(6, 4, generator=torch.Generator().manual_seed(9))

    def loss(params: Any) -> Tensor:
        return (model.apply(params, state, x) - target).square().mean()

    gradients, first = grad_and_value(loss)(params)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), params)
    value = loss(leaves)
    value.backward()
    assert torch.equal(first, value.detach())
    for a, b in zip(tree_leaves(gradients), tree_leaves(leaves), strict=True):
        torch.testing.assert_close(a, b.grad)
        assert a.any()
    for _ in range(10):
        gradients, value = grad_and_value(loss)(params)
        params = tree_map(lambda p, g: p - 0.002 * g, params, gradients)
        _, state = model.update(params, state, x)
    assert value < 0.9 * first


def test_an_ensemble_is_one_vmap():
    x = batch()
    members = [ready(seed)[1:] for seed in range(3)]
    model = ready()[0]
    params, state = tree_map(lambda *t: torch.stack(t), *members)

    def loss(params: Any, state: Any, x: Tensor) -> Tensor:
        return model.apply(params, state, x).square().mean()

    gradients, values = vmap(grad_and_value(loss), in_dims=(0, 0, None))(params, state, x)
    for i, member in enumerate(members):
        expected, value = grad_and_value(loss)(*member, x)
        torch.testing.assert_close(values[i], value, rtol=1e-5, atol=0)
        one = tree_map(lambda t, i=i: t[i], gradients)
        torch.testing.assert_close(tree_leaves(one), tree_leaves(expected), rtol=1e-4, atol=1e-4)
    assert len(set(values.tolist())) == 3


def test_grids_by_name():
    fine = LayerSpec(weight=WeightSpec(per_channel=False), activation=ActivationSpec(bits=16))
    model = transform(net, {"conv": fine, "fc": SPEC})
    params, state = model.init(weights())
    params, state = model.finish(params, model.calibrate(params, state, batch()))
    y = torch.relu(operators.conv1d(batch(), params["conv"], fine, padding=1)).flatten(1)
    expected = operators.linear(y, params["fc"], SPEC)
    assert same_bits(model.apply(params, state, batch()), expected)


@pytest.mark.parametrize("missing", ["params", "spec"])
def test_names_that_are_not_there_are_errors(missing):
    model = transform(net, {"conv": SPEC} if missing == "spec" else SPEC)
    given = weights()
    if missing == "params":
        del given["fc"]
    params, state = model.init(given)
    with pytest.raises(KeyError, match="fc"):
        model.apply(params, state, batch())


def with_trained_scales(seed: int = 0) -> dict[str, Any]:
    given = weights(seed)
    given["conv"]["weight_scale"] = torch.tensor([0.02, 0.03, 0.04])
    given["fc"]["weight_scale"] = torch.tensor([0.02])
    return given


def test_a_trained_scale_goes_on_from_the_last_valid_one():
    model, x = transform(net, SPEC), batch()
    params, state = model.init(with_trained_scales())
    params, state = model.finish(params, model.calibrate(params, state, x))
    wanted = model.apply(params, state, x)
    broken = copied(params)
    broken["conv"]["weight_scale"] = torch.tensor([0.02, torch.nan, -1.0])
    broken["fc"]["weight_scale"] = torch.zeros(1)
    before = [leaf.numpy().tobytes() for leaf in tree_leaves((broken, state))]
    y, after = model.update(broken, state, x)
    assert same_bits(y, wanted)
    assert same_bits(model.apply(broken, state, x), wanted)
    assert same_bits(after["conv"].previous_scale, params["conv"]["weight_scale"])
    assert [leaf.numpy().tobytes() for leaf in tree_leaves((broken, state))] == before


def test_valid_scales_become_the_last_valid_ones():
    model, x = transform(net, SPEC), batch()
    params, state = model.init(with_trained_scales())
    params, state = model.finish(params, model.calibrate(params, state, x))
    params["fc"]["weight_scale"] = torch.tensor([0.05])
    _, after = model.update(params, state, x)
    assert after["fc"].previous_scale.tolist() == params["fc"]["weight_scale"].tolist()
    assert after["fc"].seen.batches == 0


def test_a_scale_to_start_from_has_to_be_valid():
    given = with_trained_scales()
    given["conv"]["weight_scale"][1] = 0.0
    with pytest.raises(ValueError, match=r"^conv: weight_scale must be from 2\^-23 to 2\^32"):
        transform(net, SPEC).init(given)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.nan, "has NaN or infinite values"),
        (-torch.inf, "has NaN or infinite values"),
        (1e30, r"must be at most 2\^63 \(9.2e18\) in magnitude, got 1e\+30"),
    ],
)
def test_calibration_names_the_operator_whose_input_is_of_no_use(value: float, message: str):
    model, x = transform(net, SPEC), batch()
    params, state = model.init(weights())
    x[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"^conv: calibration input {message}"):
        model.calibrate(params, state, x)
    params["conv"]["weight"][0] = value
    if value != 1e30:
        with pytest.raises(ValueError, match=r"^fc: calibration input has NaN"):
            model.calibrate(params, state, batch())


@pytest.mark.parametrize("end", [torch.nan, torch.inf, -torch.inf])
def test_a_range_that_diverged_goes_on_from_the_last_valid_one(end: float):
    model, params, state = ready()
    broken = copied(params)
    broken["conv"]["clip"] = Clip(torch.tensor(end), params["conv"]["clip"].min)
    y, after = model.update(broken, state, batch())
    assert torch.isfinite(y).all()
    assert same_bits(y, model.apply(params, state, batch()))
    assert torch.isfinite(torch.stack(after["conv"].previous)).all()
