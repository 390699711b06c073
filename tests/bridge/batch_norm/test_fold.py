"""Folding BatchNorm: the same function, the pairs that may be folded, and trained folds."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bridge import (
    Conv2dQAT,
    LinearQAT,
    bake_batch_norm,
    calibrate,
    convert_qat_model,
    fold_batch_norm,
    plan_batch_norm,
    prepare_qat,
    verify,
)
from tests.support.bits import same_state
from tests.support.exporters import EXPORTERS, export
from tests.support.modules.layers import state


def randomized(model):
    """Give every BatchNorm statistics and parameters of its own."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
    return model.eval()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 7)),
    "conv2d": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "conv3d": (nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), (2, 1, 3, 3, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 5)),
    "transposed2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.BatchNorm2d(6),
        (2, 4, 5, 5),
    ),
    "transposed3d": (nn.ConvTranspose3d(2, 4, 2, groups=2), nn.BatchNorm3d(4), (2, 2, 3, 3, 3)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_folded_layer_computes_the_same(name, trainable):
    layer, norm, shape = LAYERS[name]
    model, x = randomized(nn.Sequential(layer, norm, nn.ReLU())), torch.randn(shape)
    before, y = state(model), model(x)
    folded = fold_batch_norm(model, trainable=trainable)
    assert type(folded[1]) is nn.Identity
    close(folded(x), y)
    assert not torch.equal(folded[0].weight, layer.weight)
    assert same_state(state(model), before), "the model itself stays"
    assert parametrize.is_parametrized(folded[0]) == trainable


def test_inplace_folds_the_model_itself():
    layer, norm, _ = LAYERS["conv2d"]
    model = nn.Sequential(layer, norm)
    copied = fold_batch_norm(model)
    assert model[1] is norm
    inner = nn.Sequential(copied[0], nn.BatchNorm2d(6))
    assert fold_batch_norm(inner, inplace=True) is inner
    assert type(inner[1]) is nn.Identity


class Paths(nn.Module):
    """What may be folded, and what looks like it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.used_twice, self.after = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.called_twice, self.one, self.two = (
            nn.Conv2d(4, 4, 1),
            *(nn.BatchNorm2d(4) for _ in "12"),
        )
        self.left, self.right, self.both = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.late, self.activated = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.quantized, self.norm = Conv2dQAT(4, 4, 1), nn.BatchNorm2d(4)
        self.first = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.first(x))
        y = self.used_twice(x)
        x = self.after(y) + y
        x = self.two(self.called_twice(self.one(self.called_twice(x))))
        x = self.both(self.left(x)) + self.both(self.right(x))
        x = self.activated(torch.relu(self.late(x)))
        return self.norm(self.quantized(x))


PAIRS = [("stem.0", "stem.1"), ("quantized", "norm")]


def pairs(model, **options):
    plans = plan_batch_norm(model, **options)
    return [(plan.layer, plan.path) for plan in plans if plan.action == "folded"]


def left(model, **options):
    return {p.path: p.reason for p in plan_batch_norm(model, **options) if p.action == "left"}


@pytest.mark.parametrize("example", [None, torch.randn(2, 3, 4, 4)])
def test_every_norm_that_is_left_has_a_reason(example):
    assert left(Paths(), example=example) == {
        "after": "the output of used_twice has other users too",
        "one": "called_twice is also called without it",
        "two": "called_twice is also called without it",
        "both": "it is called for several layers",
        "activated": "its input is not the output of a convolution or linear layer",
        "first": "its input is not the output of a convolution or linear layer",
    }


def test_pairs_are_found_where_folding_is_right():
    model = randomized(Paths())
    assert pairs(model) == pairs(model, example=torch.randn(2, 3, 4, 4)) == PAIRS
    x = torch.randn(2, 3, 4, 4)
    calibrate(model, [x])
    with pytest.warns(UserWarning, match=r"2 of 8 BatchNorms folded, left: after \(the output"):
        folded = fold_batch_norm(model)
    left = [n for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["after", "one", "two", "both", "activated", "first"]
    assert type(folded.quantized) is Conv2dQAT
    # What is quantized is another weight; so about the same.
    assert (folded(x) - model(x)).abs().max() < 0.05 * model(x).abs().max()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_needs_pairs():
    model, x = randomized(Branching()), torch.rand(2, 1, 5, 5)
    with pytest.raises(ValueError, match=r"^the model cannot be traced: .*; give pairs=, or "):
        fold_batch_norm(model)
    folded = fold_batch_norm(model, pairs=[("conv", "norm")])
    close(folded(x), model(x))


@pytest.mark.parametrize(
    ("layer", "norm", "message"),
    [
        (
            nn.ReLU(),
            nn.BatchNorm2d(4),
            r"^0 and 1 must be a convolution .* got ReLU and BatchNorm2d",
        ),
        (nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), r"got Conv2d and GroupNorm$"),
        (
            nn.Conv2d(1, 4, 1),
            nn.BatchNorm2d(4, track_running_stats=False),
            "^1: needs running statistics and affine parameters to fold$",
        ),
        (nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, affine=False), "^1: needs running statistics"),
        (nn.Linear(1, 4), nn.BatchNorm1d(5), "^0 has 4 outputs, 1 normalizes 5$"),
        (
            nn.ConvTranspose2d(4, 2, 1),
            nn.BatchNorm2d(4),
            "^0 has 2 outputs, 1 normalizes 4$",
        ),
    ],
)
def test_pairs_that_cannot_be_folded_are_errors(layer, norm, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(nn.Sequential(layer, norm), pairs=[("0", "1")])


def trained(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


def test_a_trainable_fold_trains_what_was_there():
    model = randomized(nn.Sequential(Conv2dQAT(1, 4, 3, bias=False), nn.BatchNorm2d(4)))
    x = torch.randn(8, 1, 5, 5)
    folded = fold_batch_norm(model, trainable=True)
    calibrate(folded, [x])
    folded.train()
    names = {name for name in trained(folded) if "clip" not in name}
    assert names == {
        "0.parametrizations.weight.original",
        "0.parametrizations.weight.0.norm.weight",
        "0.parametrizations.weight.0.norm.bias",
        "0.parametrizations.bias.original",
    }
    before = state(folded)
    optimizer = torch.optim.SGD(folded.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        folded(x).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in state(folded).items() if not torch.equal(value, before[name])}
    assert moved >= names, "gamma and beta too"
    assert not any("running" in name or "tracked" in name for name in moved)
    y = folded.eval()(x)
    assert bake_batch_norm(folded) is folded
    assert torch.equal(folded(x), y)
    assert {n for n in trained(folded) if "clip" not in n} == {"0.weight", "0.bias"}
    assert type(folded[0]) is Conv2dQAT


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_fold_that_trains_cannot_be_exported_before_it_is_baked(tmp_path):
    model = randomized(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    folded = fold_batch_norm(prepare_qat(model), trainable=True)
    x = torch.randn(5, 3)
    calibrate(folded, [x])
    with pytest.raises(RuntimeError, match=r"^0 .*: the weight is parametrized; remove the"):
        export(folded, (x,), tmp_path / "inter.onnx", "torchscript")


def test_baking_leaves_other_parametrizations():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    model = nn.Sequential(layer)
    bake_batch_norm(model)
    assert parametrize.is_parametrized(model[0], "weight")


class Grouped(nn.Module):
    """A ReLU network with every kind of pair, float before it is prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.up, self.norm2 = nn.ConvTranspose2d(8, 6, 3, groups=2), nn.BatchNorm2d(6)
        self.fc, self.norm3 = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv(x)))
        x = torch.relu(self.norm2(self.up(x)))
        return torch.relu(self.norm3(self.fc(x.amax((2, 3)))))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("order", ["fold first", "prepare first", "trainable"])
def test_a_folded_network_is_exact(exporter, order, tmp_path):
    model, x = randomized(Grouped()), torch.randn(3, 3, 6, 6)
    assert len(pairs(model)) == 3
    if order == "fold first":
        quantized = prepare_qat(fold_batch_norm(model))
    else:
        quantized = fold_batch_norm(prepare_qat(model), trainable=order == "trainable")
    calibrate(quantized, [x])
    if order == "trainable":
        bake_batch_norm(quantized)
    inter = export(quantized, (x,), tmp_path / "inter.onnx", exporter)
    conversion = convert_qat_model(inter, tmp_path / "out")
    assert [layer.name for layer in conversion.layers] == ["conv", "up", "fc"]
    assert verify(quantized, inter, conversion.fake_quant, conversion.deploy, x).exact
    assert type(quantized.fc) is LinearQAT


def test_an_example_finds_what_cannot_be_traced():
    model, x = randomized(Branching()).train(), torch.rand(2, 1, 5, 5)
    before = state(model)
    assert pairs(model, example=x) == [("conv", "norm")]
    assert model.training
    assert same_state(state(model), before)
    assert left(model, example=-x) == {"norm": "it is not called"}
    close(fold_batch_norm(model, example=(x,)).eval()(x), model.eval()(x))


class Twice(nn.Module):
    """One pair that is always called together, as in a siamese network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.conv(x)) - self.norm(self.conv(x + 1))


@pytest.mark.parametrize("traced", [True, False])
def test_a_pair_that_is_called_twice_together(traced):
    model, x = randomized(Twice()), torch.randn(2, 3, 4, 4)
    folded = fold_batch_norm(model, example=None if traced else x)
    assert type(folded.norm) is nn.Identity
    close(folded(x), model(x))


class Read(nn.Module):
    """Reads what the layer gives in several ways beside its BatchNorm."""

    def __init__(self, how, between=None) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.how, self.between = how, between

    def forward(self, x: Tensor):
        y = self.conv(x)
        return self.how(self, y, self.norm(self.between(y) if self.between else y))


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 if self.training else x


@pytest.mark.parametrize(
    ("how", "between"),
    [
        (lambda _, y, z: (y, z), None),
        (lambda _, y, z: {"a": [y], "b": z}, None),
        (lambda _, y, z: z + y.mean(), None),
        (lambda _, y, z: z.add_(y), None),
        (lambda _, y, z: z + y[0], None),
        (lambda _, y, z: z, nn.ReLU(inplace=True)),
        (lambda _, y, z: z, nn.Dropout(0.5)),
        (lambda _, y, z: z, DropPath()),
    ],
)
def test_other_readers_of_the_output(how, between):
    model, x = randomized(Read(how, between)), torch.randn(2, 3, 4, 4)
    assert set(left(model, example=x)) == set(left(model)) == {"norm"}
    with pytest.warns(UserWarning, match="0 of 1 BatchNorms folded, left: norm"):
        folded = fold_batch_norm(model, example=x)
    assert same_state(state(folded), state(model))


class WithActivation(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def pair(layer=None, norm=None):
    return nn.Sequential(layer or nn.Conv2d(3, 4, 1), norm or nn.BatchNorm2d(4))


def hooked(place, *, pre=False):
    model = pair()
    if pre:
        model[place].register_forward_pre_hook(lambda m, a: (a[0] + 1,))
    else:
        model[place].register_forward_hook(lambda m, a, y: y + 1)
    return model


def patched(place):
    model = pair()
    model[place].forward = lambda x: x
    return model


def listed():
    model = pair()
    model.norms = [model[1]]
    return model


def tied():
    model = nn.Sequential(*pair(nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 1))
    model[2].weight = model[0].weight
    return model


def started():
    algorithm = {"weights_retrain_algo": "ulq_retrain"}
    model = pair(Conv2dQAT(3, 4, 1, config={"retrain_weight_config": algorithm}))
    calibrate(model, [torch.randn(2, 3, 4, 4)])
    return model


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair(norm=WithActivation(4)), "1: WithActivation is a custom class"),
        (lambda: pair(Standardized(3, 4, 1)), "0: Standardized is a custom class"),
        (lambda: pair(nn.LazyConv2d(4, 1)), "0: LazyConv2d is a custom class"),
        (lambda: pair(norm=nn.LazyBatchNorm2d()), "1: LazyBatchNorm2d is a custom class"),
        (lambda: hooked(0), "0: it has hooks"),
        (lambda: hooked(1), "1: it has hooks"),
        (lambda: hooked(1, pre=True), "1: it has hooks"),
        (lambda: patched(0), "0: forward is patched"),
        (lambda: patched(1), "1: forward is patched"),
        (
            lambda: pair(nn.utils.weight_norm(nn.Conv2d(3, 4, 1))),
            "0: its weight is not a parameter",
        ),
        (
            lambda: pair(nn.Conv2d(3, 4, 1).double()),
            "0 is torch.float64 on cpu, 1 is torch.float32",
        ),
        (lambda: pair(nn.Conv2d(3, 4, 1, device="meta")), "0 is torch.float32 on meta"),
        (listed, "1: it is also held in norms[0] (a plain list), where it would stay"),
        (tied, "0: its weight is shared with 2"),
        (started, "0: its trained weight scale is that of the unfolded weight"),
    ],
)
def test_what_does_more_is_refused(make, message):
    model = make()
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fold_batch_norm(model, pairs=[("0", "1")], inplace=True)
    assert left(model)["1"].startswith(message)


def test_axis_one_that_is_no_output():
    model = randomized(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 3)
    assert left(model, example=x) == {
        "1": "the output of 0 has rank 3, whose axis 1 is not its output channels"
    }


@pytest.mark.parametrize("given", ["0", ["01"], [("0",)], [(0, 1)]])
def test_pairs_of_a_wrong_kind(given):
    with pytest.raises((TypeError, ValueError), match=r"^pairs"):
        fold_batch_norm(pair(), pairs=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("0", "2")], r"^pairs: the model has no module '2'$"),
        ([("0", "1"), ("0", "1")], r"^pairs: '0' is given twice"),
    ],
)
def test_pairs_that_are_not_there(given, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(pair(), pairs=given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("frozen", [(), ("0",), ("1",), ("0", "1")])
def test_what_is_frozen_stays_frozen(bias, trainable, frozen):
    model = randomized(pair(nn.Conv2d(3, 4, 1, bias=bias)))
    for path in frozen:
        model.get_submodule(path).requires_grad_(False)
    folded = fold_batch_norm(model, trainable=trainable)
    if trainable:
        norm = folded[0].parametrizations.weight[0].norm
        assert norm.weight.requires_grad == norm.bias.requires_grad == ("1" not in frozen)
        bake_batch_norm(folded)
    assert folded[0].weight.requires_grad == ("0" not in frozen)
    assert folded[0].bias.requires_grad == (("0" if bias else "1") not in frozen)


def test_a_norm_with_two_names_goes_under_both():
    model = randomized(pair())
    model.again = model[1]
    model.forward = lambda x: model[1](model[0](x))
    folded = fold_batch_norm(model, pairs=[("0", "1")])
    assert type(folded[1]) is type(folded.again) is nn.Identity


def test_a_synchronized_norm_is_one():
    model, x = randomized(pair(norm=nn.SyncBatchNorm(4))), torch.randn(2, 3, 4, 4)
    close(fold_batch_norm(model)(x), model(x))


class Slow(nn.BatchNorm2d):
    """Another default, and nothing more."""

    def __init__(self, features: int) -> None:
        super().__init__(features, momentum=0.01, eps=1e-3)


class Named(nn.Conv2d):
    pass


def test_subclasses_that_change_nothing_are_folded():
    model, x = randomized(pair(Named(3, 4, 1), Slow(4))), torch.randn(2, 3, 4, 4)
    folded = fold_batch_norm(model)
    assert type(folded[1]) is nn.Identity
    close(folded(x), model(x))


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d, which is known by its name."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Dropout(0.5), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


NAME = {"__module__": "timm.layers.norm_act", "__qualname__": "BatchNormAct2d"}


@pytest.mark.parametrize("trainable", [True, False])
def test_what_a_known_class_does_after_it_stays(trainable):
    assert "custom class" in left(pair(norm=Activated(4)))["1"]
    known = type("BatchNormAct2d", (Activated,), NAME)
    model, x = randomized(pair(norm=known(4))), torch.randn(2, 3, 4, 4)
    folded = fold_batch_norm(model, trainable=trainable)
    assert [type(module) for module in folded[1]] == [nn.Dropout, nn.PReLU]
    close(folded(x), model(x))
    assert sum("act." in name for name in folded.state_dict()) == 0, "each parameter has one name"
    assert folded.train()[1][0].training
