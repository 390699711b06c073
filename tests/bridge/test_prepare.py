"""prepare_qat and float_model: what is replaced, what is not and why, and what comes back."""

import json
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import bridge
from bridge import Conv2dQAT, LinearQAT, MatMulQAT, float_model, plan_qat, prepare_qat
from bridge.modules import LAYER_CLASSES
from tests.support.bits import same_state
from tests.support.modules.layers import config, state


class Subclass(nn.Conv2d):
    pass


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class Zoo(nn.Module):
    """Every layer that could be quantized, and every reason not to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.reflect = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.subclass = Subclass(4, 4, 3)
        self.doubled = Doubled(4, 4)
        self.normed = parametrizations.weight_norm(nn.Linear(4, 4))
        self.volume = nn.Conv3d(1, 1, 3, dilation=(2, 1, 1))
        self.attention = nn.MultiheadAttention(4, 2)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8)
        self.lstm = nn.LSTM(4, 4)
        self.ready = LinearQAT(4, 4)
        self.off = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)
        self.again = self.fc


def outcome(*arguments, **options):
    plans = plan_qat(*arguments, **options)
    return {plan.path: (plan.kind, plan.action, plan.reason) for plan in plans}


def test_the_plan_says_what_happens_to_each_layer_and_why():
    attention = "MultiheadAttention reads this weight without calling the layer"
    eval_mode = "TransformerEncoderLayer reads this weight without calling the layer in eval mode"
    wide = ", per-tensor weight scale (this class does not support channel_wise)"
    chosen = {"channel_wise": True}
    plan = outcome(
        Zoo(),
        config(None, chosen),
        skip=["stem", nn.BatchNorm2d],
        include=["[!b]*", "body.0", nn.BatchNorm2d],
        layers={"off": {"retrain_enable": False}, "a*": config({"batch_num": 2}, chosen)},
    )
    assert plan == {
        "stem": ("Conv2d", "skipped", "skip rule 'stem'"),
        "body.0": ("Conv2d", "quantized", "default"),
        "body.2": ("Conv2d", "skipped", "no include rule matches"),
        "reflect": (
            "Conv2d",
            "unsupported",
            "Conv2d: padding_mode must be 'zeros', got 'reflect'",
        ),
        "subclass": (
            "Subclass",
            "quantized",
            "default, a subclass of Conv2d with the same computation",
        ),
        "doubled": (
            "Doubled",
            "unsupported",
            "subclass of Linear with its own forward: state what it computes by "
            "bridge.register_layer(Doubled, ...)",
        ),
        "normed": ("ParametrizedLinear", "unsupported", "its weight is parametrized"),
        "volume": (
            "Conv3d",
            "unsupported",
            "Conv3d: dilation_d must be 1, got dilation=(2, 1, 1)",
        ),
        "attention": (
            "MultiheadAttention",
            "unsupported",
            "no operator for MultiheadAttention",
        ),
        "attention.out_proj": ("NonDynamicallyQuantizableLinear", "unsupported", attention),
        "encoder.self_attn": (
            "MultiheadAttention",
            "unsupported",
            "no operator for MultiheadAttention",
        ),
        "encoder.self_attn.out_proj": (
            "NonDynamicallyQuantizableLinear",
            "unsupported",
            attention,
        ),
        "encoder.linear1": ("Linear", "unsupported", eval_mode),
        "encoder.linear2": ("Linear", "unsupported", eval_mode),
        "lstm": ("LSTM", "unsupported", "no operator for LSTM"),
        "ready": ("LinearQAT", "skipped", "already quantized"),
        "off": ("Linear", "skipped", "retrain_enable is False"),
        "fc": ("Linear", "quantized", "default" + wide),
        "again": ("Linear", "quantized", "rule 'a*'" + wide),
    }


def test_the_plan_is_what_happens():
    model = Zoo()
    quantized = {plan.path for plan in plan_qat(model) if plan.action == "quantized"}
    with pytest.warns(UserWarning, match="only 45% of the weights"):
        prepared = prepare_qat(model)
    layers = dict(prepared.named_modules(remove_duplicate=False))
    assert quantized == {"stem", "body.0", "body.2", "subclass", "off", "fc", "again"}
    for path, before in model.named_modules(remove_duplicate=False):
        wanted = type(before).__name__ + ("QAT" if path in quantized else "")
        assert layers[path].__class__.__name__ == wanted, path
    assert prepared.fc is prepared.again


@pytest.mark.parametrize("float_class", LAYER_CLASSES, ids=lambda c: c.__name__)
def test_every_class_with_an_operator_is_replaced_by_its_own(float_class):
    layer = float_class(2, 3) if float_class is nn.Linear else float_class(2, 3, 2)
    prepared = prepare_qat(nn.Sequential(layer), inplace=True)
    assert type(prepared[0]) is LAYER_CLASSES[float_class]
    assert prepared[0].weight is layer.weight


def test_other_types_than_float32_are_left():
    model = nn.Sequential(nn.Linear(2, 3).double(), nn.Linear(3, 3).half(), nn.Linear(3, 1))
    reasons = [(plan.action, plan.reason) for plan in plan_qat(model)]
    assert reasons == [
        ("unsupported", "its weight is torch.float64, not torch.float32"),
        ("unsupported", "its weight is torch.float16, not torch.float32"),
        ("quantized", "default"),
    ]


def test_a_model_that_is_one_layer_is_replaced_itself():
    layer = nn.Linear(2, 3)
    prepared = prepare_qat(layer, inplace=True)
    assert type(prepared) is LinearQAT
    assert prepared.weight is layer.weight
    assert float_model(prepared, inplace=True).weight is layer.weight


def small():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def test_inplace_keeps_the_very_parameters_and_a_copy_leaves_the_model():
    model = small()
    before, weight = state(model), model[0].weight
    copied = prepare_qat(model)
    assert type(model[0]) is nn.Conv2d
    assert copied[0].weight is not weight
    assert same_state(state(model), before)
    assert prepare_qat(model, inplace=True) is model
    assert type(model[0]) is Conv2dQAT
    assert model[0].weight is weight
    back = float_model(model)
    assert type(model[0]) is Conv2dQAT
    assert back[0].weight is not weight
    assert float_model(model, inplace=True) is model
    assert type(model[0]) is nn.Conv2d
    assert model[0].weight is weight
    assert same_state(state(model), before)


def test_modes_and_frozen_parameters_stay():
    model = small()
    model[0].eval()
    model[3].weight.requires_grad_(False)
    prepared = prepare_qat(model)
    assert [module.training for module in prepared] == [False, True, True, True]
    assert not prepared[3].weight.requires_grad
    back = float_model(prepared)
    assert [module.training for module in back] == [False, True, True, True]
    assert not back[3].weight.requires_grad


def test_the_model_still_computes_about_what_it_did():
    model, x = small().eval(), torch.randn(8, 1, 4, 4)
    prepared = prepare_qat(model)
    bridge.calibrate(prepared, [x])
    error = (prepared(x) - model(x)).abs().max()
    assert 0 < error < 0.05 * model(x).abs().max()
    assert torch.equal(float_model(prepared)(x), model(x))


def test_a_plan_prints_itself_and_changes_nothing(capsys):
    model = small()
    print(plan_qat(model, skip=["3"]))
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 layers to be quantized" in printed
    assert "Conv2dQAT" not in printed
    assert "skip rule '3'" in printed
    assert [type(module) for module in model] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]


@pytest.mark.parametrize("inplace", [True, False])
def test_hooks_follow_and_so_do_their_handles(inplace):
    model, calls = small(), []
    layer = model[0]
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    handles = [
        layer.register_forward_pre_hook(lambda m, a: calls.append("pre")),
        layer.register_forward_hook(lambda m, a, k, y: calls.append("post"), with_kwargs=True),
        layer.register_full_backward_pre_hook(lambda m, g: calls.append("backward pre")),
        layer.register_full_backward_hook(lambda m, gx, gy: calls.append("backward")),
    ]
    expected = ["pre", "post", "backward pre", "backward"]
    prepared = prepare_qat(model, inplace=inplace)
    for replaced in (prepared, float_model(prepared, inplace=inplace)):
        calls.clear()
        replaced(x).sum().backward()
        assert calls == expected
    if inplace:
        for handle in handles:
            handle.remove()
        calls.clear()
        prepared(x).sum().backward()
        assert calls == []


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"skip": ["stem.*"]}, r"'stem\.\*'"),
        ({"include": ["0", "head"]}, "'head'"),
        ({"layers": {"conv": {}}}, "'conv'"),
        ({"skip": [nn.Conv3d]}, "Conv3d"),
    ],
)
@pytest.mark.parametrize("call", [plan_qat, prepare_qat])
def test_rules_that_match_nothing_are_errors(call, options, shown):
    model = small()
    with pytest.raises(ValueError, match=rf"^rule {shown} matches no module of the model$"):
        call(model, **options)
    assert type(model[0]) is nn.Conv2d


def test_classes_select_and_skip():
    assert outcome(small(), include=[nn.Linear]) == {
        "0": ("Conv2d", "skipped", "no include rule matches"),
        "3": ("Linear", "quantized", "default"),
    }
    assert outcome(small(), skip=[nn.Linear]) == {
        "0": ("Conv2d", "quantized", "default"),
        "3": ("Linear", "skipped", "skip rule Linear"),
    }


def test_skip_wins_over_include_and_the_first_pattern_over_later_ones():
    rules = {"[03]": config({"batch_num": 2}), "3": config({"batch_num": 3})}
    prepared = prepare_qat(small(), config({"batch_num": 4}), layers=rules)
    assert [prepared[i].config.search.batch_num for i in (0, 3)] == [2, 2]
    rules = {"3": config({"batch_num": 3})}
    prepared = prepare_qat(small(), config({"batch_num": 4}), layers=rules)
    assert [prepared[i].config.search.batch_num for i in (0, 3)] == [4, 3]
    skipped = prepare_qat(small(), include=["0"], skip=["0"])
    assert type(skipped[0]) is nn.Conv2d


def test_channel_wise_falls_back_for_linear_alone():
    chosen = config(None, {"channel_wise": True})
    prepared = prepare_qat(small(), chosen)
    assert prepared[0].config.weight.per_channel
    assert not prepared[3].config.weight.per_channel
    assert chosen == config(None, {"channel_wise": True}), "the caller's dict is left alone"


@pytest.mark.parametrize("bad", [{"retrain_data": {}}, config({"batch_num": 0})])
def test_wrong_configurations_are_errors_before_anything_is_replaced(bad):
    for options in ({"config": bad}, {"layers": {"3": bad}}):
        model = small()
        with pytest.raises(ValueError, match="retrain_data"):
            prepare_qat(model, inplace=True, **options)
        assert type(model[0]) is nn.Conv2d


FILE = {
    "default": config({"batch_num": 2}, {"channel_wise": False}),
    "layers": {"3": config({"batch_num": 3}, {})},
    "skip": ["*.0"],
}
TOML = """
skip = ["*.0"]
[default.retrain_data_config]
batch_num = 2
[default.retrain_weight_config]
channel_wise = false
[layers.3.retrain_data_config]
batch_num = 3
"""


@pytest.mark.parametrize(("name", "text"), [("c.json", json.dumps(FILE)), ("c.toml", TOML)])
def test_configuration_files(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    model = small()
    model[2] = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten())
    for given in (path, str(path)):
        prepared = prepare_qat(model, given)
        assert type(prepared[2][0]) is nn.Conv2d
        assert [prepared[i].config.search.batch_num for i in (0, 3)] == [2, 3]
        assert not prepared[0].config.weight.per_channel
    prepared = prepare_qat(model, path, layers={"3": config({"batch_num": 5})}, skip=["0"])
    assert type(prepared[0]) is type(prepared[2][0]) is nn.Conv2d
    assert prepared[3].config.search.batch_num == 5, "arguments win over the file"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json cannot be read: Expecting property name"),
        ("config.toml", "skip =", "config.toml cannot be read: Invalid value"),
        ("config.json", '{"layers": ["fc"]}', "layers must map patterns to configurations, got"),
        ("config.json", '{"skip": "fc"}', "skip must be a list of patterns, got 'fc'"),
        ("config.json", '{"skip": [1]}', "skip must be a list of patterns, got"),
    ],
)
def test_files_that_say_something_else_are_errors(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare_qat(nn.Sequential(nn.Linear(1, 1)), tmp_path / name)


@pytest.mark.parametrize(
    ("text", "got"), [('{"defaults": {}, "skip": []}', r"\['defaults', 'skip'\]"), ("[1]", "list")]
)
def test_files_with_other_keys_are_errors(tmp_path, text, got):
    path = tmp_path / "config.json"
    path.write_text(text)
    wanted = r"config\.json must have keys of \['\$schema', 'default', 'layers', 'skip'\], got "
    with pytest.raises(ValueError, match=wanted + got):
        prepare_qat(small(), path)


def test_a_configuration_is_a_dict_or_a_path(tmp_path):
    with pytest.raises(TypeError, match=r"^config must be a dict or a path, got int$"):
        prepare_qat(small(), 8)
    with pytest.raises(FileNotFoundError):
        prepare_qat(small(), tmp_path / "none.json")


def test_products_stay_in_a_float_model():
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.product = nn.Linear(2, 2), MatMulQAT()

        def forward(self, x: Tensor) -> Tensor:
            return self.product(self.fc(x), x)

    prepared = prepare_qat(Product())
    assert type(prepared.fc) is LinearQAT
    assert type(float_model(prepared).product) is MatMulQAT


def test_a_model_of_products_alone_is_not_warned_of():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.multiply = MatMulQAT()

        def forward(self, x):
            return self.multiply(x, x.transpose(1, 2))

    assert isinstance(prepare_qat(Product()).multiply, MatMulQAT)  # a warning would be an error
