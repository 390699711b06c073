"""calibrate: ranges without training, in eval mode, from as many batches as it takes."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT, MatMulQAT, calibrate, float_model, plan_qat, prepare_qat
from tests.support.bits import same_state
from tests.support.modules.layers import config, state


def layers(*batch_nums):
    return nn.Sequential(*(LinearQAT(3, 3, config=config({"batch_num": n})) for n in batch_nums))


class Counted:
    """An iterable that knows how many batches were taken from it."""

    def __init__(self, count):
        self.taken, self.batches = 0, torch.randn(count, 4, 3)

    def __iter__(self):
        for batch in self.batches:
            self.taken += 1
            yield batch


def test_it_finds_what_training_would_find():
    torch.manual_seed(1)
    batches = list(torch.randn(3, 4, 3))
    trained = LinearQAT(3, 3, config=config({"batch_num": 3}))
    found = LinearQAT(3, 3, config=config({"batch_num": 3}))
    found.load_state_dict(trained.state_dict())
    for x in batches:
        trained(x)
    calibrate(found, batches)
    assert same_state(state(trained), state(found))


def test_it_takes_no_more_batches_than_needed():
    model, batches = layers(2, 3, 1), Counted(10)
    calibrate(model, batches)
    assert batches.taken == 3
    assert [int(layer.cur_batch) for layer in model] == [2, 3, 1]
    calibrate(model, batches)
    assert batches.taken == 3, "nothing is left to calibrate"


def test_too_few_batches_name_the_layers_and_what_was_seen_is_kept():
    model = layers(1, 5, 3)
    message = (
        r"^batches ran out before these layers were calibrated: "
        r"1 \(2 of 5\), 2 \(2 of 3\)$"
    )
    with pytest.raises(ValueError, match=message):
        calibrate(model, Counted(2))
    assert [layer.calibrated for layer in model] == [True, False, False]
    assert not any(layer.calibrating_in_eval for layer in model)
    calibrate(model, Counted(3))
    assert [int(layer.cur_batch) for layer in model] == [1, 5, 3]


def test_no_batch_at_all():
    with pytest.raises(ValueError, match=r"calibrated: 0 \(0 of 1\)$"):
        calibrate(layers(1), [])


def test_a_layer_the_model_never_calls():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = LinearQAT(3, 3), LinearQAT(3, 3)

        def forward(self, x):
            return self.used(x)

    model, batches = Idle(), Counted(9)
    with pytest.warns(UserWarning, match=r"never called stay without a range: idle\. The model"):
        calibrate(model, batches)
    assert batches.taken == 1, "no batch would change anything"
    assert [model.used.calibrated, model.idle.calibrated] == [True, False]
    calibrate(model.idle, batches)
    calibrate(model, batches)
    assert batches.taken == 2


class Reads(nn.Module):
    """Reads a layer's weight, as Swin's and EVA's attention do."""

    def __init__(self):
        super().__init__()
        self.qkv, self.fc = LinearQAT(3, 3), LinearQAT(3, 3, config=config({"batch_num": 2}))

    def forward(self, x):
        return self.fc(nn.functional.linear(x, self.qkv.weight, self.qkv.bias))


def test_a_layer_whose_weight_is_read():
    batches = Counted(9)
    with pytest.warns(UserWarning, match=r"range: qkv\. The model reads their weight"):
        calibrate(Reads(), batches)
    assert batches.taken == 2


def test_a_model_that_calls_none_of_its_layers():
    model = Reads()
    model.fc = nn.Identity()
    with pytest.raises(ValueError, match=r"never called: qkv; .* nothing was calibrated$"):
        calibrate(model, Counted(3))


class Held(nn.Module):
    """Calls a layer through something that torch does not look into."""

    def __init__(self, hold):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.second = nn.Conv2d(3, 3, 3)
        self.held = hold(self.first)

    def forward(self, x):
        held = self.held
        while not callable(held):
            held = next(iter(held.values() if isinstance(held, dict) else held))
        return self.second(held(x))


class Caller:
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


WAYS = {
    "list": lambda layer: [layer],
    "tuple": lambda layer: (layer,),
    "set": lambda layer: {layer},
    "dict": lambda layer: {"a": layer},
    "nested": lambda layer: {"a": [(layer,)]},
    "bound": lambda layer: layer.forward,
    "bound in a list": lambda layer: [layer.forward],
    "partial": lambda layer: functools.partial(layer),
    "partial of a bound": lambda layer: functools.partial(layer.forward),
    "closure": lambda layer: lambda x: layer(x),
    "object": Caller,
    "unregistered module": lambda layer: [nn.Sequential(layer)],
}


@pytest.mark.filterwarnings("ignore:layer 'first'")
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_whose_float_original_runs(way):
    model = Held(WAYS[way])
    prepared = prepare_qat(model, inplace=way == "closure")  # deepcopy copies no closure
    with pytest.raises((RuntimeError, ValueError), match=r"first.*never called"):
        calibrate(prepared, [torch.randn(2, 3, 7, 7)])
    back = float_model(prepared, inplace=way == "closure")
    assert type(back.first) is nn.Conv2d
    back(torch.randn(2, 3, 7, 7))


def test_the_plan_says_where_else_a_layer_is_held():
    for way, where in (("list", "held[0] (a plain list)"), ("closure", "held (a closure)")):
        first, second = plan_qat(Held(WAYS[way]))
        assert first.action == "quantized"
        assert (
            first.reason == f"default; also held in {where}, where it stays in float: a call "
            "there raises"
        )
        assert second.reason == "default"


def test_a_copy_whose_function_calls_the_original():
    model = Held(lambda layer: lambda x: layer(x))
    prepared = prepare_qat(model, skip="second")
    with pytest.raises(ValueError, match=r"never called: first;.*in held \(a closure\): try prep"):
        calibrate(prepared, [torch.randn(2, 3, 7, 7)])


def test_a_list_that_only_keeps_the_books_changes_nothing():
    model = Held(lambda layer: [layer])
    model.forward = lambda x: None  # shadows the class's
    prepared = nn.Sequential(model.first, model.second)
    prepared.all = [model.first, model.second]
    prepared = prepare_qat(prepared)
    calibrate(prepared, [torch.randn(2, 3, 7, 7)])
    assert all(layer.calibrated for layer in prepared)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.randn(4, 3),
            r"the rows of a tensor, here of shape \(4, 3\), are batches, .*\[batch\]$",
        ),
        (np.ones((4, 3)), r"iterable of batches.*got a numpy array: \[torch.from_numpy"),
        ({"input": torch.ones(4, 3)}, r"iterable of batches.*put it in a list, \[batch\]$"),
    ],
)
def test_one_batch_is_no_iterable_of_batches(batch, message):
    with pytest.raises(TypeError, match=message):
        calibrate(layers(1), batch)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "input must be a torch.Tensor, got NoneType"),
        ((torch.ones(4, 3), torch.ones(4)), r"batch 0 is a tuple of 2.*leave labels out"),
        ([torch.ones(4, 3), torch.ones(4)], r"batch 0 is a list of 2.*leave labels out"),
        ({"x": torch.ones(4, 3)}, r"batch 0 is a dict of 'x'.*takes \(input\)"),
        (np.ones((4, 3)), "batch 0 holds a numpy array: torch.from_numpy"),
    ],
)
def test_a_batch_that_is_not_what_the_model_takes(batch, message):
    for model in (layers(1), nn.DataParallel(layers(1))):
        with pytest.raises(TypeError, match=message):
            calibrate(model, [batch])


@pytest.mark.parametrize("batches", [None, 3, "data", layers(1)])
def test_what_is_no_iterable(batches):
    with pytest.raises(TypeError, match=r"^calibrate: batches must be an iterable of batches"):
        calibrate(layers(1), batches)


def test_a_float_model_is_to_be_prepared_first():
    with pytest.raises(ValueError, match=r"call net = bridge.prepare_qat\(model\) first .*: 0\)$"):
        calibrate(nn.Sequential(nn.Linear(3, 3)), [torch.ones(4, 3)])


@pytest.mark.parametrize("training", [True, False])
def test_modes_come_back_and_nothing_else_moves(training):
    model = nn.Sequential(Conv2dQAT(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    model.train(training)
    model[1].train(not training)
    before = state(model[1])
    trained = [p.requires_grad for p in model.parameters()]
    calibrate(model, [torch.randn(2, 1, 5, 5)])
    assert [module.training for module in model.modules()] == [
        training,
        training,
        not training,
        training,
    ]
    assert same_state(state(model[1]), before)
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == trained


def test_modes_come_back_when_the_model_fails():
    model = layers(1)
    with pytest.raises(RuntimeError, match="3 features"):
        calibrate(model, [torch.randn(2, 7)])
    assert model.training
    assert not model[0].calibrating_in_eval


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = LinearQAT(3, 3)

    def forward(self, a, b=None):
        return self.fc(a if b is None else a + b)


@pytest.mark.parametrize(
    "pack",
    [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"a": a, "b": b}],
    ids=["tuple", "list", "dict"],
)
def test_a_batch_may_be_any_arguments(pack):
    a, b = torch.randn(2, 4, 3)
    one, other = Added(), Added()
    calibrate(one, [a + b])
    calibrate(other, [pack(a, b)])
    assert torch.equal(one.fc.acts_clip_max, other.fc.acts_clip_max)


def test_any_iterable_will_do():
    for batches in (
        iter(torch.randn(2, 4, 3)),
        (x for x in torch.randn(2, 4, 3)),
        torch.randn(2, 4, 3),
        torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4),
    ):
        model = layers(2)
        calibrate(model, batches)
        assert model[0].calibrated


def test_layers_with_a_given_range_or_switched_off_need_no_batch():
    model = nn.Sequential(
        LinearQAT(3, 3, config=config({"clip_max": 1.0})),
        LinearQAT(3, 3, config={"retrain_enable": False}),
    )
    calibrate(model, [])
    calibrate(nn.ReLU(), [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_input_that_is_not_finite_names_the_layer(value):
    model = nn.Sequential(nn.Identity(), layers(2))
    batch = torch.randn(4, 3)
    batch[2, 1] = value
    message = r"^1\.0 \(LinearQAT\): calibration input has NaN or infinite values$"
    with pytest.raises(ValueError, match=message):
        calibrate(model, [batch])
    assert model[1][0].cur_batch == 0, "the batch does not count"


def test_a_batch_counts_for_both_operands_or_for_none():
    product = MatMulQAT(config=config({"batch_num": 2}))
    fine, bad = torch.ones(2, 2), torch.full((2, 2), float("nan"))
    names = list(product.state_dict())
    with pytest.raises(ValueError, match=r"^MatMulQAT: calibration input has NaN"):
        product(fine, bad)
    assert product.cur_batch == 0
    assert list(product.state_dict()) == names


def test_a_terminal_sees_a_progress_bar_and_a_file_does_not(monkeypatch, capsys):
    calibrate(layers(2), Counted(2))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    calibrate(layers(2), Counted(2))
    assert "calibrating" in capsys.readouterr().err
