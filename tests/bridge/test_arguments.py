"""Models, switches and options of a wrong kind are refused everywhere, with what was meant."""

import re

import pytest
import torch
from torch import nn

import bridge
from tests.support.modules.layers import config


def net():
    return nn.Sequential(bridge.Conv2dQAT(3, 4, 3))


CALLS = {
    "prepare_qat": bridge.prepare_qat,
    "plan_qat": bridge.plan_qat,
    "float_model": bridge.float_model,
    "calibrate": lambda model: bridge.calibrate(model, []),
    "fold_batch_norm": bridge.fold_batch_norm,
    "plan_batch_norm": bridge.plan_batch_norm,
    "bake_batch_norm": bridge.bake_batch_norm,
    "functionalize": bridge.functionalize,
    "parameter_groups": bridge.parameter_groups,
    "whole_parameters": bridge.whole_parameters,
    "freeze_clips": bridge.freeze_clips,
    "freeze_weight_scales": bridge.freeze_weight_scales,
    "set_quantization": bridge.set_quantization,
    "sensitivity": lambda model: bridge.sensitivity(model, torch.ones(1)),
    "adopt": lambda model: bridge.adopt(model, None),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("model", "got"),
    [
        (None, "got None"),
        (
            net().state_dict(),
            "got OrderedDict with 13 keys; build the network and call its load_state_dict",
        ),
        (nn.Conv2d, "got the class Conv2d; give an instance, Conv2d(...)"),
        ("model.pt", "got 'model.pt'; load the model first"),
        ([net()], "got list"),
    ],
    ids=["None", "state_dict", "class", "path", "list"],
)
def test_what_is_no_model(name, model, got):
    message = f"{name}: model must be a torch.nn.Module, {got}"
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        CALLS[name](model)


def quantization(model, **options):
    with bridge.quantization(model, **options):
        pass


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (bridge.prepare_qat, {"inplace": "no"}),
        (bridge.prepare_qat, {"inplace": 1}),
        (bridge.float_model, {"inplace": "no"}),
        (bridge.fold_batch_norm, {"trainable": "no"}),
        (bridge.fold_batch_norm, {"inplace": None}),
        (bridge.freeze_clips, {"frozen": "no"}),
        (bridge.freeze_weight_scales, {"frozen": 0}),
        (bridge.set_quantization, {"weights": "no"}),
        (quantization, {"activations": 0}),
    ],
)
def test_switches_are_true_or_false(call, options):
    ((name, value),) = options.items()
    with pytest.raises(TypeError, match=rf"{name} must be True or False, got {value!r}$"):
        call(net(), **options)


@pytest.mark.parametrize(
    "call", [bridge.freeze_clips, bridge.freeze_weight_scales, bridge.set_quantization]
)
def test_layers_of_switches(call):
    with pytest.raises(TypeError, match=r"layers must be a pattern of paths, got \['0'\]$"):
        call(net(), layers=["0"])
    with pytest.raises(ValueError, match=r"matches '1'; there are 0$"):
        call(net(), layers="1")
    with pytest.raises(ValueError, match=r"the model has none; call net = bridge.prepare_qat"):
        call(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lrr": 1.0}, ValueError, "ranges has no 'lrr'; did you mean 'lr'?"),
        ({"learning_rate": 1.0}, ValueError, "has no 'learning_rate'; did you mean 'lr'?"),
        ({"weight_decy": 1.0}, ValueError, "did you mean 'weight_decay'?"),
        ({"params": []}, ValueError, "ranges has no 'params'"),
        ({"lr": "1e-4"}, TypeError, "ranges['lr'] must be a number, got '1e-4'"),
        ({"lr": -1.0}, ValueError, "ranges['lr'] must be 0 or more, got -1.0"),
        (1e-4, TypeError, "ranges must be a dict of options such as {'lr': 1e-4}, got 0.0001"),
    ],
)
def test_options_of_parameter_groups(options, error, message):
    with pytest.raises(error, match="parameter_groups: .*" + re.escape(message)):
        bridge.parameter_groups(net(), ranges=options)
    with pytest.raises(error):
        bridge.parameter_groups(net(), scales=options)


def test_options_of_any_optimizer():
    class Lion(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-4, cautious=False):
            super().__init__(params, {"lr": lr, "cautious": cautious})

    for option in ({"lr": torch.tensor(1e-3)}, {"betas": (0.9, 0.99)}, {"momentum": 0.9}):
        assert bridge.parameter_groups(net(), ranges=option)[1].items() >= option.items()
    assert bridge.parameter_groups(net(), ranges={"cautious": True})[1]["cautious"]
    del Lion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["0"]}, "layers must map patterns to configurations, got ['0']"),
        ({"layers": {"0": 8}}, "layers['0'] must be a configuration dict, got 8"),
        ({"skip": [nn.Linear(2, 2)]}, "skip must hold patterns of paths or classes of modules"),
        ({"include": 3}, "include must be patterns or classes, got 3"),
        ({"skip": [int]}, "skip must hold patterns of paths or classes of modules"),
    ],
)
def test_rules_of_a_wrong_kind(options, message):
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        bridge.plan_qat(nn.Sequential(nn.Linear(2, 2)), **options)


def test_one_rule_needs_no_list():
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
    for rule in ("1", nn.Conv2d):
        actions = [plan.action for plan in bridge.plan_qat(model, skip=rule)]
        assert actions == ["quantized", "skipped"]
        actions = [plan.action for plan in bridge.plan_qat(model, include=rule)]
        assert actions == ["skipped", "quantized"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qat.yaml", "default: {}", "a configuration file must be .json or .toml"),
        ("qat.json", "", "is empty; it must have keys of"),
        ("qat.toml", " \n", "is empty; it must have keys of"),
        ("qat.json", '{"default": [1]}', "default must be a configuration, got [1]"),
        ("qat.json", '{"layers": {"0": 3}}', "layers['0'] must be a configuration dict, got 3"),
    ],
)
def test_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(name) + ".*" + re.escape(message)):
        bridge.prepare_qat(nn.Linear(2, 2), path)


def test_a_model_without_layers():
    with pytest.warns(UserWarning, match=r"ReLU has no layer that could be quantized$"):
        bridge.prepare_qat(nn.ReLU())
    with pytest.raises(ValueError, match=r"call bridge.prepare_qat"):
        bridge.sensitivity(nn.Linear(2, 2), torch.ones(1, 2))


@pytest.mark.parametrize("assign", [True, False])
def test_a_float_checkpoint_in_a_quantized_model(assign):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    model = bridge.prepare_qat(plain)
    with pytest.raises(RuntimeError, match=r"load it before bridge.prepare_qat") as caught:
        model.load_state_dict(plain.state_dict(), assign=assign)
    assert str(caught.value).count("a float model's") == 1
    model.load_state_dict(plain.state_dict(), strict=False, assign=assign)
    half = {k: v for k, v in model.state_dict().items() if not k.startswith("1.")}
    with pytest.raises(RuntimeError, match="Missing key") as caught:
        model.load_state_dict(half)
    assert "float model" not in str(caught.value)


def functional():
    model = nn.Sequential(bridge.LinearQAT(3, 2, config=config()))
    form = bridge.functionalize(model)
    params, state = form.init()
    params, state = form.finish(params, form.calibrate(params, state, torch.ones(4, 3)))
    return model, form, params, state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.wieght": torch.ones(2, 3)}, "params has no '0.wieght'; did you mean '0.weight'?"),
        ({"0.weight": None}, "params lacks 0.weight; take all of what init returns"),
    ],
)
def test_names_of_functional_params(change, message):
    model, form, params, state = functional()
    params = {name: value for name, value in {**params, **change}.items() if value is not None}
    for call in (
        lambda: form.apply(params, state, torch.ones(4, 3)),
        lambda: form.update(params, state, torch.ones(4, 3)),
        lambda: bridge.to_module(model, params, state),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_shapes_and_kinds_of_functional_params():
    model, form, params, state = functional()
    with pytest.raises(ValueError, match=r"params\['0.weight'\] has shape \(1,\), the model's"):
        bridge.to_module(model, {**params, "0.weight": torch.ones(1)}, state)
    for wrong in (None, [1]):
        with pytest.raises(TypeError, match="params must be a dict of tensors by name, got"):
            form.apply(wrong, state, torch.ones(4, 3))
        with pytest.raises(TypeError, match=r"must be .* ModuleState"):
            form.apply(params, wrong, torch.ones(4, 3))
        with pytest.raises(TypeError, match="state must be a ModuleState"):
            bridge.to_module(model, params, wrong)
