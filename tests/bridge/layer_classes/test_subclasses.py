"""Layers of classes derived from torch's: what is replaced, what it computes, what stays."""

import copy
import io
import pickle
import re
import sys
import types

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import bridge
from bridge import Conv2dQAT, ConvTranspose2dQAT, LinearQAT, float_model, plan_qat, prepare_qat
from bridge.export.normalize.model import read_model
from bridge.export.read.layers import read_layers
from bridge.layer_classes.registry import class_rule
from qatfunc import Clip, operators
from tests.support.bits import same_state
from tests.support.exporters import EXPORTERS, dynamic, export
from tests.support.modules import foreign_layers as foreign
from tests.support.modules.foreign_layers import PADDED, STANDARDIZED
from tests.support.modules.layers import LEARNED, config, state

CLIPPED = {"clip_max": 2.0, "clip_min": -1.0}


class Centred(nn.Linear):
    """A registered class of the user's: its methods compute what is quantized."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("offset", torch.linspace(-1, 1, outputs))

    def centred(self) -> Tensor:
        return self.weight - self.weight.mean(1, keepdim=True)

    def shifted(self) -> Tensor:
        return self.bias + self.offset

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.centred(), self.shifted())


bridge.register_layer(
    Centred, input=lambda _, x: x.float(), weight=Centred.centred, bias=lambda m: m.shifted()
)


class CroppedTranspose(nn.ConvTranspose2d):
    """A transposed convolution whose input is padded."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 0, 0, 2)))


bridge.register_layer(CroppedTranspose, padding=lambda *_: [(0, 2), (1, 0)])


class Net(nn.Module):
    """Registered layers of every kind, in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(foreign.Conv2dSame(3, 8, 3, stride=2), nn.ReLU())
        self.body = nn.Sequential(
            foreign.ScaledStdConv2dSame(8, 8, 4, stride=2), nn.ReLU(), CroppedTranspose(8, 4, 2)
        )
        self.head = nn.Sequential(foreign.Conv1D(6, 4), nn.ReLU(), Centred(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).amax((2, 3)))


def trained(net: nn.Module, x: Tensor, **options: object) -> nn.Module:
    """Prepare, calibrate and train two steps."""
    net = prepare_qat(net, **options)
    bridge.calibrate(net, [x])
    optimizer = torch.optim.SGD(bridge.parameter_groups(net.train()), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return net.eval()


def only(net: nn.Module) -> tuple[str, str]:
    (plan,) = plan_qat(nn.Sequential(net))
    return plan.action, plan.reason


# What is replaced, and what comes back.


@pytest.mark.parametrize("kind", [*PADDED, *STANDARDIZED])
def test_known_classes_are_replaced_and_come_back(kind):
    layer = (PADDED | STANDARDIZED)[kind]()
    action, reason = only(layer)
    assert action == "quantized"
    assert reason.startswith("default, ")
    before, holder = state(layer), nn.Sequential(layer)
    parameters = dict(layer.named_parameters())
    prepared = prepare_qat(holder, inplace=True)
    assert isinstance(prepared[0], Conv2dQAT)
    assert isinstance(prepared[0], type(layer))
    assert all(prepared[0].get_parameter(name) is p for name, p in parameters.items())
    back = float_model(prepared, inplace=True)[0]
    assert type(back) is type(layer)
    assert same_state(state(back), before)
    assert vars(back).keys() == vars(layer).keys()
    x = torch.randn(2, 3, 9, 10)
    assert torch.equal(back(x), layer(x))


def test_a_subclass_that_changes_nothing_keeps_what_it_adds():
    layer = foreign.Conv3DSimple(1, 2)
    layer.note, layer.act = "kept", nn.ReLU()
    assert only(layer) == (
        "quantized",
        "default, a subclass of Conv3d with the same computation",
    )
    qat = bridge.Conv3dQAT.from_float(layer)
    assert type(qat).__name__ == "Conv3DSimpleQAT"
    assert qat.get_downsample_stride(2) == (2, 2, 2)
    assert (qat.note, qat.act) == ("kept", layer.act)
    plain = bridge.Conv3dQAT.from_float(copy_to(nn.Conv3d(1, 2, 3, padding=1, bias=False), layer))
    x = torch.randn(1, 1, 4, 5, 6)
    for one in (qat, plain):
        one(x)
    assert torch.equal(qat(x), plain(x))
    assert "Conv3DSimpleQAT" not in repr(plain)
    qat.note = "changed"
    assert qat.to_float().note == "changed"


def copy_to(target: nn.Module, source: nn.Module) -> nn.Module:
    target.load_state_dict(source.state_dict())
    return target


def test_a_transposed_weight_is_a_linear_layer():
    layer = foreign.Conv1D(5, 3)
    assert only(layer) == ("quantized", "default, a Linear by registration")
    qat = LinearQAT.from_float(layer, config(CLIPPED)).eval()
    twin = LinearQAT.from_float(copy_transposed(layer), config(CLIPPED)).eval()
    x = torch.randn(2, 4, 3)
    assert torch.equal(qat(x), twin(x))
    assert (qat.in_features, qat.out_features, qat.weight) == (3, 5, layer.weight)
    assert "in_features=3" in repr(qat)


def copy_transposed(layer: nn.Module) -> nn.Module:
    plain = nn.Linear(layer.nx, layer.nf)
    plain.weight = nn.Parameter(layer.weight.detach().t().contiguous())
    plain.bias = layer.bias
    return plain


def test_modes_of_submodules_stay():
    layer = foreign.Conv2dStaticSamePadding(1, 1, 3, pads=(1, 1, 1, 1)).train()
    layer.static_padding.eval()
    qat = Conv2dQAT.from_float(layer)
    assert (qat.training, qat.static_padding.training) == (True, False)
    assert (qat.to_float().training, layer.static_padding.training) == (True, False)


# What is computed.


@pytest.mark.parametrize("kind", PADDED)
def test_zeros_are_added_before_the_quantized_operator(kind):
    layer = PADDED[kind]()
    # Integers: float sums of any order are exact, so padding may be done in any way.
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape))
    qat = Conv2dQAT.from_float(layer)
    qat.quantizes_input = qat.quantizes_weight = False
    for size in ((9, 10), (8, 7), (12, 13)):
        x = torch.randint(-9, 10, (2, 3, *size)).float()
        assert torch.equal(qat(x), layer(x))


@pytest.mark.parametrize("kind", STANDARDIZED)
@pytest.mark.parametrize("training", [False, True])
def test_the_effective_weight_is_quantized(kind, training):
    layer = STANDARDIZED[kind]()
    qat = Conv2dQAT.from_float(layer, config(CLIPPED)).train(training)
    x = torch.randn(2, 3, 9, 10, requires_grad=True)
    pads = foreign.pad_same if getattr(layer, "same_pad", kind[0] == "W") else lambda x, _: x
    twin = copy.deepcopy(layer)
    weight, (high, low) = twin.effective(), (qat.acts_clip_max, qat.acts_clip_min)
    params = {"weight": weight, "clip": Clip(high.detach().clone(), low.detach().clone())}
    if twin.bias is not None:
        params["bias"] = twin.bias
    geometry = {n: getattr(twin, n) for n in ("stride", "padding", "dilation", "groups")}
    wanted = operators.conv2d(pads(x, twin), params, qat.config.layer, **geometry)
    y = qat(x)
    assert torch.equal(y, wanted)
    y.square().sum().backward()
    wanted.square().sum().backward()
    for name, parameter in twin.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
        assert torch.equal(qat.get_parameter(name).grad, parameter.grad), name


def test_the_scales_are_those_of_the_effective_weight():
    layer = foreign.ScaledStdConv2d(3, 6, 3)
    qat = Conv2dQAT.from_float(layer, config(CLIPPED, LEARNED))
    qat(torch.randn(1, 3, 5, 5))
    wanted = layer.effective().abs().amax((1, 2, 3))
    assert torch.all((qat.wts_scales * 128 - wanted).abs() <= wanted / 100)
    qat.freeze_weight_scales()
    held = qat.frozen_wts_scales.clone()
    with torch.no_grad():
        qat.gain.mul_(2)
    assert torch.equal(qat.frozen_wts_scales, held)
    frozen = bridge.Conv2dQAT.from_float(layer, config(CLIPPED))
    frozen.freeze_weight_scales()
    frozen.eval()
    assert torch.equal(frozen.wts_scales, frozen.frozen_wts_scales)


def test_a_layer_that_is_not_enabled_computes_what_the_original_does():
    off = {"retrain_enable": False}
    for layer, x in (
        (foreign.ScaledStdConv2dSame(3, 4, 3), torch.randn(1, 3, 6, 5)),
        (foreign.Conv1D(4, 3), torch.randn(2, 3)),
        (CroppedTranspose(3, 2, 2), torch.randn(1, 3, 4, 4)),
    ):
        qat_class = next(c for c in (Conv2dQAT, ConvTranspose2dQAT, LinearQAT) if fits(c, layer))
        assert torch.equal(qat_class.from_float(layer, off)(x), layer(x))


def fits(qat_class: type, layer: nn.Module) -> bool:
    return class_rule(type(layer)).base is qat_class.operator.float_class


def test_inputs_are_cast_as_registered():
    layer = LinearQAT.from_float(Centred(4, 2), config(CLIPPED)).eval()
    x = torch.randn(3, 4)
    assert torch.equal(layer(x.double()), layer(x))
    functional = bridge.functionalize(nn.Sequential(LinearQAT.from_float(Centred(4, 2))))
    params, seen = functional.init()
    params, seen = functional.finish(params, functional.calibrate(params, seen, x.double()))
    assert functional.apply(params, seen, x).isfinite().all()


# From training to the files.


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    x = torch.randn(4, 3, 13, 14)
    return trained(Net(), x), x


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("weight", [None, LEARNED], ids=["arq", "learned"])
def test_torch_and_both_files_have_the_same_bits(tmp_path, exporter, weight):
    torch.manual_seed(4)
    x = torch.randn(4, 3, 13, 14)
    net = trained(Net(), x, config=config(None, weight))
    inter = export(net, (x,), tmp_path / "inter.onnx", exporter, **dynamic(exporter))
    result = bridge.convert_qat_model(inter, tmp_path / "net")
    bridge.adopt(net, result)
    names = ["stem.0", "body.0", "body.2", "head.0", "head.2"]
    assert [layer.name for layer in result.layers] == names
    for batch in (x, x[:1]):
        proof = bridge.verify(net, inter, result.fake_quant, result.deploy, batch)
        assert proof.exact
        assert all(check.proven for check in proof.layers)
        assert all(check.output_torch_fake.count == 0 for check in proof.layers)
    layers, _ = read_layers(read_model(inter).graph)
    for layer in layers:
        module = net.get_submodule(layer.name)
        scales = module._learned_scale(module.wts_scales) if weight else module.wts_scales
        effective = module._effective_weight().detach()
        shape = (-1, 1) if effective.ndim == 2 else (-1, 1, 1, 1)
        scales = scales.detach().reshape((1, -1, 1, 1) if layer.op == "ConvTranspose" else shape)
        codes = (effective / scales).round().clamp(-128, 127).numpy()
        assert np.array_equal(layer.weight.T if layer.op == "MatMul" else layer.weight, codes)


def test_the_default_exporter_leaves_sizes_open(tmp_path, network):
    net, x = network
    size = {2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    inter = export(net, (x,), tmp_path / "inter.onnx", "default", dynamic_shapes=(size,))
    result = bridge.convert_qat_model(inter, tmp_path / "net")
    net = bridge.adopt(copy.deepcopy(net), result)
    for h, w in ((13, 14), (9, 6), (16, 21)):
        batch = torch.randn(4, 3, h, w)
        assert bridge.verify(net, inter, result.fake_quant, result.deploy, batch).exact


def test_the_torchscript_exporter_refuses_open_sizes(tmp_path, network):
    net, x = network
    axes = {"input_names": ["x"], "dynamic_axes": {"x": {2: "h"}}}
    with pytest.raises(RuntimeError, match=r"stem\.0 .* padding depends on the size"):
        export(net, (x,), tmp_path / "inter.onnx", "torchscript", **axes)
    fixed = prepare_qat(nn.Sequential(foreign.Conv2dSame(3, 2, 3)), config(CLIPPED)).eval()
    export(fixed, (x,), tmp_path / "inter.onnx", "torchscript", **axes)


# What else is done to layers.


def test_checkpoints_copies_and_pickles(network, monkeypatch):
    net, x = network
    for cls in (foreign.Conv2dSame, foreign.ScaledStdConv2dSame, foreign.Conv1D):
        parts = cls.__module__.split(".")
        for i in range(1, len(parts) + 1):
            home = types.ModuleType(".".join(parts[:i]))
            monkeypatch.setitem(sys.modules, home.__name__, home)
        setattr(home, cls.__name__, cls)
    wanted = net(x)
    other = prepare_qat(Net())
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.eval()(x), wanted)
    assert torch.equal(copy.deepcopy(net)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), wanted)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x), wanted)
    assert type(loaded.stem[0]) is type(net.stem[0])


def test_a_pickle_of_a_class_that_is_not_registered_says_so(monkeypatch):
    layer = LinearQAT.from_float(Centred(4, 2))
    stored = pickle.dumps(layer)
    monkeypatch.setattr("bridge.layer_classes.registry._registered", {})
    with pytest.raises(TypeError, match=r"cannot load a quantized Centred: .*register_layer"):
        pickle.loads(stored)


def test_functional_models_have_the_same_bits_and_gradients(network):
    net, x = network
    model = bridge.functionalize(net)
    params, seen = model.init()
    assert torch.equal(model.apply(params, seen, x), net(x))

    def loss(params):
        return model.apply(params, seen, x).square().sum()

    gradients = torch.func.grad(loss)(params)
    net = copy.deepcopy(net)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        if name in gradients and parameter.grad is not None:
            assert torch.equal(gradients[name], parameter.grad), name
    stacked = {name: torch.stack([p, p * 1.01]) for name, p in params.items()}
    both = torch.vmap(model.apply, (0, None, None))(stacked, seen, x)
    assert torch.equal(both[0], net(x))
    assert torch.equal(bridge.to_module(net, params, seen).eval()(x), net(x))


def test_one_graph_under_torch_compile(network):
    net, x = copy.deepcopy(network[0]), network[1]
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), net(x))
    smaller = x[..., :11]
    assert torch.equal(compiled(smaller), net(smaller))
    compiled(x).square().sum().backward()
    assert all(p.grad is not None for p in net.body[0].parameters() if p.requires_grad)


def test_averages_replicas_and_exported_programs_have_the_same_bits(network):
    net, x = network
    wanted = net(x)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    assert torch.equal(averaged.eval()(x), wanted)
    layer, y = net.body[0], torch.randn(1, 8, 7, 7)
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(replica, name, parameter.detach().clone())
    assert torch.equal(replica(y), layer(y))
    program = torch.export.export(net, (x,))
    assert torch.equal(program.module()(x), wanted)


def test_checkpointing_changes_no_gradient(network):
    net, x = copy.deepcopy(network[0]).train(), network[1]
    again = copy.deepcopy(net)
    net(x).square().sum().backward()
    checkpoint(again, x, use_reentrant=False).square().sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(again.get_parameter(name).grad, parameter.grad), name


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_computed_weight_that_is_used_twice_stays_one(tmp_path, exporter):
    net = nn.Sequential(foreign.Conv1D(4, 4), nn.ReLU(), Centred(4, 4), nn.ReLU())
    net = nn.Sequential(net[:3], net, nn.Identity())
    x = torch.randn(4, 4)
    net = trained(net, x)
    inter = export(net, (x,), tmp_path / "inter.onnx", exporter)
    result = bridge.convert_qat_model(inter, tmp_path / "net")
    stored = [
        tensor for tensor in onnx.load(result.fake_quant).graph.initializer if len(tensor.dims) == 2
    ]
    assert len(stored) == 2
    net = bridge.adopt(net, result)
    assert bridge.verify(net, inter, result.fake_quant, result.deploy, x).exact


def test_autocast_changes_no_bit(network):
    net, x = network
    layer = net.body[0]
    x = torch.randn(1, 8, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.float()))


@pytest.mark.parametrize("kind", ["ScaledStdConv2dSame", "Conv2dSame"])
def test_share_has_the_members_and_a_range_of_its_own(kind):
    first = Conv2dQAT.from_float((PADDED | STANDARDIZED)[kind](), config(None, LEARNED))
    x = torch.randn(1, 3, 8, 8)
    first(x)
    second = first.share()
    assert type(second) is type(first)
    assert second.weight is first.weight
    assert getattr(second, "gain", None) is getattr(first, "gain", None)
    assert not second.calibrated
    second(x)
    assert torch.equal(second(x), first(x))


def test_sensitivity_measures_the_effective_weight():
    layer, x = Centred(4, 3), torch.randn(5, 4)
    plain = nn.Linear(4, 3)
    with torch.no_grad():
        plain.weight.copy_(layer.centred())
        plain.bias.copy_(layer.shifted())
    mine, wanted = (
        bridge.sensitivity(nn.Sequential(LinearQAT.from_float(one, config(CLIPPED))), x)
        for one in (layer, plain)
    )
    assert mine == wanted


@pytest.mark.parametrize("prepared", [False, True])
def test_a_batch_norm_is_not_folded_into_a_computed_weight(prepared):
    net = nn.Sequential(foreign.StdConv2d(3, 4, 3), nn.BatchNorm2d(4))
    net = prepare_qat(net) if prepared else net
    with pytest.warns(UserWarning, match="computes its weight from this parameter"):
        assert isinstance(bridge.fold_batch_norm(net.eval())[1], nn.BatchNorm2d)
    with pytest.raises(ValueError, match="computes its weight from this parameter"):
        bridge.fold_batch_norm(net, pairs=[("0", "1")])
    padded = nn.Sequential(foreign.Conv2dSame(3, 4, 3), nn.BatchNorm2d(4))
    padded = prepare_qat(padded) if prepared else padded
    assert isinstance(bridge.fold_batch_norm(padded.eval())[1], nn.Identity)


# What is refused, and what to do then.


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class DoubledSame(foreign.Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class Reflecting(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(F.pad(x, (1, 1, 1, 1), "reflect"), weight, bias)


class Configured(nn.Conv2d):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.config = "mine"


class Final(nn.Linear):
    def __init_subclass__(cls, **_: object) -> None:
        raise TypeError("Final is final")


class Learned(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.inner = nn.Linear(2, 2)


bridge.register_layer(Learned, weight=lambda layer: layer.inner.weight)


class Wrong(nn.Linear):
    pass


bridge.register_layer(Wrong, weight=lambda layer: layer.weight[:1])

REFUSED = {
    "forward": (
        lambda: Doubled(1, 1, 1),
        r"its own forward: .*bridge.register_layer\(Doubled, ...\)",
    ),
    "of a registered one": (
        lambda: DoubledSame(1, 1, 1),
        "subclass of Conv2dSame with its own forward",
    ),
    "_conv_forward": (lambda: Reflecting(1, 1, 3), "its own _conv_forward"),
    "lazy": (lambda: nn.LazyConv2d(1, 1), "LazyConv2d is a class of torch|shapes are not known"),
    "name": (lambda: Configured(1, 1, 1), "config"),
    "final": (lambda: Final(1, 1), "no class can be derived from Final: Final is final"),
    "submodule": (Learned, "may depend on parameters of a submodule"),
    "shape": (lambda: Wrong(2, 2), r"effective weight must have shape \(2, 2\), got \(1, 2\)"),
    "norm": (
        lambda: foreign.DetectronConv2d(1, 1, 1, norm=nn.BatchNorm2d(1), activation=nn.ReLU()),
        "applies norm and activation after the convolution",
    ),
    "reflect": (
        lambda: foreign.Conv2dSame(1, 1, 1, padding_mode="reflect"),
        "padding_mode must be 'zeros', got 'reflect'",
    ),
    "float64": (lambda: foreign.Conv2dSame(1, 1, 1).double(), "torch.float64"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_computes_something_else_stays_with_the_reason(why):
    build, reason = REFUSED[why]
    layer = build()
    net = nn.Sequential(layer, nn.Linear(9, 9))
    plan = plan_qat(net)[0]
    assert plan.action == "unsupported"
    assert re.search(reason, plan.reason), plan.reason
    assert type(prepare_qat(net)[0]) is type(layer)


def test_what_an_attention_reads_stays():
    (_, out_proj) = plan_qat(nn.MultiheadAttention(4, 2))
    assert out_proj.reason == "MultiheadAttention reads this weight without calling the layer"
    called = nn.Sequential(nn.MultiheadAttention(4, 2).out_proj)
    assert plan_qat(called)[0].action == "quantized"


@pytest.mark.parametrize(
    ("pads", "message"),
    [([(1, 1)], "for each of 2 axes, got"), ([(1, 1), (0, -1)], "padding is negative")],
)
def test_pads_that_are_none_are_refused(monkeypatch, pads, message):
    monkeypatch.setattr("bridge.layer_classes.registry._registered", {})
    bridge.register_layer(Doubled, padding=lambda *_: pads)
    layer = Conv2dQAT.from_float(Doubled(1, 1, 1), config(CLIPPED))
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, r'^cls must be a class of modules or "package.module.Class", got 3$'),
        (("Name",), {"base": nn.Linear}, 'or "package.module.Class", got'),
        ((nn.Conv2d,), {}, "is torch's own: register a class derived from it"),
        (
            ("some.where.Layer",),
            {},
            "base of 'some.where.Layer' must be a class of torch.nn: Conv1d",
        ),
        ((nn.ReLU,), {}, "must be a class of torch.nn.*got None"),
        ((nn.ReLU,), {"base": nn.Bilinear}, "must be a class of torch.nn.*Bilinear"),
        ((Doubled,), {"weight": "weight"}, "weight must be a function or None, got 'weight'"),
    ],
)
def test_registrations_that_say_nothing_are_refused(arguments, options, message):
    with pytest.raises(TypeError, match=message):
        bridge.register_layer(*arguments, **options)


def test_a_name_may_be_registered_before_its_class_exists(monkeypatch):
    monkeypatch.setattr("bridge.layer_classes.registry._registered", {})
    bridge.register_layer("some.package.Late", base=nn.Conv2d, padding=lambda *_: [(1, 1), (0, 0)])
    late = foreign.named("some.package.Late")(type("Late", (Doubled,), {}))
    assert only(late(1, 1, 3)) == ("quantized", "default, a Conv2d by registration")
