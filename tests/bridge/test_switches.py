"""Switches: what is held or off within a with block or for good, and what comes back."""

import warnings

import onnx
import pytest
import torch
from torch import nn

from bridge import (
    Conv2dQAT,
    LinearQAT,
    MatMulQAT,
    calibrate,
    convert_qat_model,
    float_model,
    freeze_clips,
    freeze_weight_scales,
    frozen_clips,
    frozen_weight_scales,
    functionalize,
    quantization,
    set_quantization,
    to_module,
    verify,
)
from qatfunc import arq_qparams, resolve_clip, ulq_qparams
from qatfunc.affine import fake_quantize
from tests.support.bits import same_bits, same_state
from tests.support.exporters import EXPORTERS, export, quiet
from tests.support.modules.layers import KINDS, NAMES, calibrated, config, state

LEARNED = {"weights_retrain_algo": "ulq_retrain", "s_rec_flag": True}


def network(weight=None):
    model = nn.Sequential(
        Conv2dQAT(1, 4, 3, padding=1, config=config(None, weight)),
        nn.ReLU(),
        nn.Flatten(),
        LinearQAT(64, 3, config=config(None, weight)),
    )
    x = torch.randn(2, 1, 4, 4)
    calibrate(model, [x])
    return model.eval(), x


def step(model, x, *, rate=0.05):
    model.train()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    model.zero_grad()
    return model.eval()


def requires_grad(model):
    """Of what trains: scales and offsets that follow the weights do not."""
    return {n: p.requires_grad for n, p in model.named_parameters() if "wts_" not in n}


class FailedError(Exception):
    pass


def fail_within(context):
    """Leave a with block by an exception."""
    with pytest.raises(FailedError), context:
        raise FailedError


def test_clips_are_held_within_the_block():
    model, x = network()
    model[3].acts_clip_min.requires_grad_(False)
    before = requires_grad(model)
    with freeze_clips(model):
        inside = requires_grad(model)
        clips = [model[i].acts_clip_max.item() for i in (0, 3)]
        weight = model[0].weight.detach().clone()
        step(model, x)
        assert [model[i].acts_clip_max.item() for i in (0, 3)] == clips
        assert not torch.equal(model[0].weight, weight)
    assert inside == {name: "clip" not in name for name in before}
    assert requires_grad(model) == before
    step(model, x)
    assert [model[i].acts_clip_max.item() for i in (0, 3)] != clips


def test_clips_are_held_for_good_layer_by_layer():
    model, _ = network()
    freeze_clips(model, layers="3")
    assert not model[3].acts_clip_max.requires_grad
    assert not model[3].acts_clip_min.requires_grad
    assert model[0].acts_clip_max.requires_grad
    freeze_clips(model, frozen=False)
    assert all(requires_grad(model).values())


def test_both_ranges_of_a_product_are_held():
    model = nn.ModuleDict({"product": MatMulQAT()})
    with freeze_clips(model, layers="product"):
        assert not any(requires_grad(model).values())
        assert len(requires_grad(model)) == 4
    assert all(requires_grad(model).values())
    fail_within(freeze_weight_scales(model))


@pytest.mark.parametrize("weight", [{}, {"channel_wise": False}, LEARNED], ids=str)
def test_weight_scales_are_held_within_the_block(weight):
    model = nn.Sequential(Conv2dQAT(1, 4, 3, padding=1, config=config(None, weight)))
    x = torch.randn(2, 1, 4, 4)
    calibrate(model, [x])
    model.eval()
    before, names = model(x), list(model.state_dict())
    with freeze_weight_scales(model):
        assert torch.equal(model(x), before), "the scales as they are"
        assert list(model.state_dict()) == names, "checkpoints are as ever"
        scales = model[0].frozen_wts_scales.clone()
        with torch.no_grad():
            model[0].weight.mul_(0.71)
        held = model(x)
        assert torch.equal(model[0].frozen_wts_scales, scales)
    free = model(x)
    # A learned scale does not follow the weight by itself.
    assert torch.equal(held, free) == (weight == LEARNED)
    assert list(model.state_dict()) == names
    assert not hasattr(model[0], "frozen_wts_scales")


def test_held_scales_receive_no_gradient():
    model, x = network(LEARNED)
    with freeze_weight_scales(model, layers="0"):
        model.train()(x).square().sum().backward()
    assert model[0].wts_scales.grad is None
    assert model[3].wts_scales.grad.any()
    assert model[0].weight.grad.any()


@pytest.mark.parametrize("weight", [{}, LEARNED], ids=["arq", "lsq"])
def test_scales_held_for_good_are_in_the_checkpoint(weight):
    model, x = network(weight)
    freeze_weight_scales(model, layers="0")
    with torch.no_grad():
        model[0].weight.mul_(0.71)
    saved = state(model)
    assert "0.frozen_wts_scales" in saved
    assert "3.frozen_wts_scales" not in saved
    loaded, _ = network(weight)
    loaded.load_state_dict(saved)
    assert same_state(state(loaded), saved)
    assert torch.equal(loaded(x), model(x))
    with freeze_weight_scales(loaded):
        assert hasattr(loaded[3], "frozen_wts_scales")
    assert hasattr(loaded[0], "frozen_wts_scales"), "the block lets go only of what it held"
    assert not hasattr(loaded[3], "frozen_wts_scales")
    freeze_weight_scales(loaded, frozen=False)
    assert "0.frozen_wts_scales" not in loaded.state_dict()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_held_scales_are_exported(exporter, tmp_path):
    model, x = network()
    freeze_weight_scales(model)
    with torch.no_grad():
        model[0].weight.mul_(0.71)
    inter = export(model, (x,), tmp_path / "inter.onnx", exporter)
    conversion = convert_qat_model(inter, tmp_path / "out")
    assert verify(model, inter, conversion.fake_quant, conversion.deploy, x).exact
    freeze_weight_scales(model, frozen=False)
    assert not verify(model, inter, conversion.fake_quant, conversion.deploy, x).exact


def fake_quantized(layer, x):
    """The float input and weight on their grids."""
    spec = layer.config
    clip, previous = layer._range("acts")
    x = fake_quantize(
        x,
        ulq_qparams(resolve_clip(clip, previous, spec.activation), spec.activation),
        spec.activation,
    )
    layout = {"transposed": layer.operator.transposed, "groups": getattr(layer, "groups", 1)}
    weight = fake_quantize(
        layer.weight, arq_qparams(layer.weight, spec.weight, **layout), spec.weight
    )
    return x, weight


@pytest.mark.parametrize("name", NAMES)
def test_each_half_alone_is_the_float_layer_on_what_is_left(name):
    layer, x = calibrated(name)
    kind, model = KINDS[name], nn.Sequential(layer.eval())
    with torch.no_grad():
        quantized_x, weight = fake_quantized(layer, x)
        plain = layer.to_float().weight
        geometry = {key: getattr(layer, key) for key in kind.geometry}
        cases = {
            (False, True): (quantized_x, plain),
            (True, False): (x, weight),
            (False, False): (x, plain),
        }
        whole = layer(x)
        for (weights, activations), operands in cases.items():
            with set_quantization(model, weights=weights, activations=activations):
                y = model(x)
            expected = kind.plain_function(*operands, layer.bias, **geometry)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
            assert not torch.equal(y, whole)
        assert torch.equal(layer(x), whole)
        torch.testing.assert_close(
            whole,
            kind.plain_function(quantized_x, weight, layer.bias, **geometry),
            rtol=0.01,
            atol=0.01,
        )


def test_off_altogether_is_about_the_float_model():
    model, x = network()
    plain = float_model(model)(x)
    with set_quantization(model, weights=False, activations=False):
        torch.testing.assert_close(model(x), plain, rtol=1e-5, atol=1e-6)
        with set_quantization(model, weights=True, layers="3"):
            assert not model[0].quantizes_weight
            assert model[3].quantizes_weight
            assert not model[3].quantizes_input, "None leaves it"
        assert not model[3].quantizes_weight
    assert model[0].quantizes_weight
    assert model[0].quantizes_input


@pytest.mark.parametrize("kind", ["clips", "scales", "quantization"])
def test_an_exception_restores_too(kind):
    model, x = network()
    before, saved, grads = model(x), state(model), requires_grad(model)
    contexts = {
        "clips": lambda: freeze_clips(model),
        "scales": lambda: freeze_weight_scales(model),
        "quantization": lambda: set_quantization(model, weights=False, activations=False),
    }
    fail_within(contexts[kind]())
    assert torch.equal(model(x), before)
    assert same_state(state(model), saved)
    assert requires_grad(model) == grads
    assert not hasattr(model[0], "frozen_wts_scales")


def test_for_good_and_back():
    model, x = network()
    before, names = model(x), list(model.state_dict())
    set_quantization(model, weights=False, layers="0")
    assert not torch.equal(model(x), before)
    assert list(model.state_dict()) == names
    set_quantization(model, weights=True)
    assert torch.equal(model(x), before)


def test_what_is_off_is_not_calibrated_and_warns_of_nothing():
    model = nn.Sequential(LinearQAT(3, 3), LinearQAT(3, 3))
    x = torch.randn(4, 3)
    with set_quantization(model, activations=False, layers="0"):
        calibrate(model, [x])
        assert [layer.calibrated for layer in model] == [False, True]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.eval()(x)
    with pytest.warns(UserWarning, match="^0 .LinearQAT. is not calibrated"):
        model(x)


def test_a_product_that_is_off_is_torchs():
    product = MatMulQAT(config=config({"clip_max": 1.0}))
    a, b = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert not torch.equal(product(a, b), a @ b)
    with set_quantization(product, activations=False):
        assert torch.equal(product(a, b), a @ b)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2dQAT(1, 4, 3)
        self.fc = LinearQAT(4, 3)
        self.product = MatMulQAT()

    def forward(self, x):
        x = self.fc(torch.relu(self.conv(x)).flatten(2).transpose(1, 2))
        return self.product(x, x.transpose(1, 2))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_is_off_is_exported_in_float_and_listed(exporter, tmp_path):
    model, x = Pair(), torch.randn(2, 1, 4, 4)
    calibrate(model, [x])
    model.eval()
    with set_quantization(model, weights=False, activations=False, layers="fc"):
        set_quantization(model, activations=False, layers="product")
        inter = export(model, (x,), tmp_path / "inter.onnx", exporter)
        conversion = convert_qat_model(inter, tmp_path / "out")
        assert [layer.name for layer in conversion.layers] == ["conv"]
        assert [(f.name, f.op) for f in conversion.left_in_float] == [
            ("fc", "MatMul"),
            ("product", "MatMul"),
        ]
        checks = verify(model, inter, conversion.fake_quant, conversion.deploy, x)
        assert checks.layers[0].output_torch_fake.count == 0
        assert checks.outputs[0].torch_fake.largest < 1e-5
    kinds = [node.op_type for node in onnx.load(inter).graph.node]
    assert kinds.count("QuantizeLinear") == 2, "the convolution's"


def test_a_layer_that_is_off_need_not_be_calibrated_for_the_export(tmp_path):
    model = nn.Sequential(LinearQAT(3, 3), LinearQAT(3, 3))
    x = torch.randn(4, 3)
    set_quantization(model, weights=False, activations=False, layers="0")
    calibrate(model, [x])
    with quiet():
        torch.onnx.export(model.eval(), (x,), str(tmp_path / "inter.onnx"), dynamo=False)
    conversion = convert_qat_model(tmp_path / "inter.onnx", tmp_path / "out")
    assert [layer.name for layer in conversion.layers] == ["1"]
    assert [(f.name, f.op) for f in conversion.left_in_float] == [("0", "Gemm")]


@pytest.mark.parametrize(
    "switch",
    [
        freeze_clips,
        freeze_weight_scales,
        set_quantization,
        lambda m, **more: frozen_clips(m, **more).__enter__(),
        lambda m, **more: frozen_weight_scales(m, **more).__enter__(),
        lambda m, **more: quantization(m, **more).__enter__(),
    ],
)
def test_a_pattern_that_matches_no_layer_is_an_error(switch):
    model, _ = network()
    for pattern in ("conv*", "1"):
        with pytest.raises(ValueError, match=f"^no quantized layer matches '{pattern[:4]}"):
            switch(model, layers=pattern)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_weight_scales_train_where_inputs_were_never_quantized(name, reciprocal):
    learned = {"weights_retrain_algo": "ulq_retrain", "s_rec_flag": reciprocal}
    layer, kind = KINDS[name].layer(None, learned), KINDS[name]
    set_quantization(layer, activations=False)
    layer(kind.batch()).square().sum().backward()
    layer.wts_scales.grad = None
    layer(kind.batch()).square().sum().backward()
    assert layer.wts_scales.grad.all()
    with torch.no_grad():
        layer.wts_scales.mul_(1.125)
    trained, x = layer.wts_scales.detach().clone(), kind.batch()
    again = kind.layer(None, learned)
    again.load_state_dict(layer.state_dict())
    set_quantization(again, activations=False)
    assert same_bits(again(x), layer(x))
    assert same_bits(again.wts_scales.detach(), trained)
    copied = to_module(layer, *functionalize(layer).init())
    assert same_bits(copied(x), layer(x))

    assert not layer.calibrated
    set_quantization(layer, activations=True)
    layer(x)
    assert layer.calibrated
    assert same_bits(layer.wts_scales.detach(), trained), "a scale starts once"
    again.load_state_dict(layer.state_dict())
    assert again.calibrated


def test_one_call_by_either_name():
    assert frozen_clips is freeze_clips
    assert frozen_weight_scales is freeze_weight_scales
    assert quantization is set_quantization


@pytest.mark.parametrize("switch", [freeze_clips, freeze_weight_scales, set_quantization])
def test_a_switch_acts_at_once_and_a_block_can_start_later(switch):
    """As torch.set_grad_enabled: the call sets, the end of a block restores."""
    options = {"weights": False, "activations": False} if switch is set_quantization else {}
    model, x = network()
    before, grads, y = state(model), requires_grad(model), model(x)

    def now():
        """What the switches set, layer by layer."""
        return [
            (layer.quantizes_input, layer.quantizes_weight, "frozen_wts_scales" in layer._buffers)
            for layer in (model[0], model[3])
        ] + [requires_grad(model)]

    start = now()
    switched = switch(model, **options)
    changed = now()
    assert changed != start
    with switched:
        assert now() == changed
        assert list(model.state_dict()) == list(before)
    assert now() == start
    assert same_state(state(model), before)
    assert requires_grad(model) == grads
    assert torch.equal(model(x), y)


def test_what_a_block_lets_go_is_held_again():
    model, x = network()
    model[3].acts_clip_min.requires_grad_(False)
    with freeze_clips(model, frozen=False):
        assert all(requires_grad(model).values())
    assert [n for n, trains in requires_grad(model).items() if not trains] == ["3.acts_clip_min"]
    freeze_weight_scales(model, layers="0")
    model[3].freeze_weight_scales(persistent=False)
    held, other = model[0].frozen_wts_scales.clone(), model[3].frozen_wts_scales.clone()
    names = list(model.state_dict())
    with torch.no_grad():
        model[0].weight.mul_(0.71)
        model[3].weight.mul_(0.71)
    y = model(x)
    with freeze_weight_scales(model, frozen=False):
        assert "0.frozen_wts_scales" not in model.state_dict()
        assert not torch.equal(model(x), y)
    assert torch.equal(model[0].frozen_wts_scales, held)
    assert torch.equal(model[3].frozen_wts_scales, other)
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), y)


def test_a_block_keeps_scales_that_are_held_already():
    model, _ = network()
    freeze_weight_scales(model, layers="0")
    held = model[0].frozen_wts_scales.clone()
    with torch.no_grad():
        model[0].weight.mul_(0.71)
    with freeze_weight_scales(model):
        assert torch.equal(model[0].frozen_wts_scales, held)
        assert [n for n in model.state_dict() if "frozen" in n] == ["0.frozen_wts_scales"]
    assert torch.equal(model[0].frozen_wts_scales, held)
    freeze_weight_scales(model, layers="0")
    assert not torch.equal(model[0].frozen_wts_scales, held), "for good: as they are now"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_block_hides_no_exception(kind):
    model, _ = network()
    with pytest.raises(kind), set_quantization(model, weights=False):
        raise kind
    assert model[0].quantizes_weight
