"""What a module's forward does: calibrate, then train; in eval mode it changes nothing."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from bridge import Conv2dQAT, ConvTranspose2dQAT, LinearQAT
from qatfunc import Clip, arq_qparams, arq_quantize, calibration
from qatfunc.linear_maps.channels import per_output
from tests.support.bits import same_bits, same_state
from tests.support.modules.layers import KINDS, LEARNED, NAMES, calibrated, config, state


def quantized_weight(layer):
    """The float weight that ARQ's integers stand for."""
    layout = {"transposed": layer.operator.transposed, "groups": getattr(layer, "groups", 1)}
    integers, qparams = arq_quantize(layer.weight.detach(), layer.config.layer.weight, **layout)
    return integers * qparams.scale


@pytest.mark.parametrize("bits", ["INT8", "INT16"])
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_pure_operator(name, bits):
    layer, x = calibrated(name, {"dst_type": bits})
    clip = Clip(layer.acts_clip_max.detach(), layer.acts_clip_min.detach())
    params = {"weight": layer.weight, "bias": layer.bias, "clip": clip}
    expected = KINDS[name].function(x, params, layer.config.layer, **KINDS[name].geometry)
    assert same_bits(layer(x), expected)
    assert same_bits(layer.eval()(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_calibration_passes_the_input_unquantized_and_the_weight_quantized(name):
    layer, kind = KINDS[name].layer({"batch_num": 2}), KINDS[name]
    for _ in range(2):
        x = kind.batch()
        expected = kind.plain_function(x, quantized_weight(layer), layer.bias, **kind.geometry)
        torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)
    x = kind.batch()
    unquantized = kind.plain_function(x, quantized_weight(layer), layer.bias, **kind.geometry)
    assert not torch.allclose(layer(x), unquantized, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_calibration_ends_with_the_searched_range(name):
    layer, batches = KINDS[name].layer({"batch_num": 3}), [KINDS[name].batch() for _ in range(3)]
    seen = calibration.init()
    for count, x in enumerate(batches, start=1):
        assert not layer.calibrated
        layer(x)
        assert layer.cur_batch == count
        seen = calibration.update(seen, x)
    assert layer.calibrated
    clip = calibration.finish(seen, layer.config.layer.activation, layer.config.search)
    for key in ("acts_clip_max", "acts_clip_max_pre"):
        assert same_bits(getattr(layer, key).detach(), clip.max)
    for key in ("acts_clip_min", "acts_clip_min_pre"):
        assert same_bits(getattr(layer, key).detach(), clip.min)


@pytest.mark.parametrize("phase", [0, 1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_eval_updates_nothing(name, phase):
    layer = KINDS[name].layer({"batch_num": 2}, LEARNED if name != "linear" else None)
    for _ in range(min(phase, 2)):
        layer(KINDS[name].batch())
    if phase == 3:  # a crossed range is replaced for the computation only
        layer.acts_clip_max.data.fill_(-3.0)
    before = state(layer)
    layer.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer(KINDS[name].batch())
    assert same_state(state(layer), before)
    assert layer.calibrated == (phase >= 2)


@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
@pytest.mark.parametrize("name", NAMES)
def test_uncalibrated_eval_passes_the_input_and_warns_once(name, algorithm):
    kind = KINDS[name]
    layer = kind.layer({"batch_num": 3}, {"weights_retrain_algo": algorithm}).eval()
    x = kind.batch()
    message = rf"^{kind.qat.__name__} is not calibrated: its input passes unquantized \(0 of 3 "
    with pytest.warns(UserWarning, match=message):
        y = layer(x)
    expected = kind.plain_function(x, quantized_weight(layer), layer.bias, **kind.geometry)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(layer(x), y)


def test_the_warning_names_the_layer_in_its_model():
    model = nn.ModuleDict({"head": nn.Sequential(nn.Identity(), LinearQAT(2, 2))}).eval()
    with pytest.warns(UserWarning, match=r"^1 \(LinearQAT\) is not calibrated"):
        model["head"](torch.ones(1, 2))


@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
@pytest.mark.parametrize("name", NAMES)
def test_forward_never_overwrites_the_weight(name, algorithm):
    layer = KINDS[name].layer({"batch_num": 2}, {"weights_retrain_algo": algorithm})
    weight = layer.weight.detach().clone()
    for _ in range(4):
        layer(KINDS[name].batch()).sum().backward()
    assert same_bits(layer.weight.detach(), weight)


def test_updates_below_half_a_step_accumulate():
    layer = LinearQAT(3, 1, bias=False, config=config({"clip_max": 1.0}))
    step = 0.125
    layer.weight.data = torch.tensor([[127 * step, 10 * step, 20 * step]])
    optimizer = torch.optim.SGD([layer.weight], lr=1.0)
    codes = []
    for _ in range(3):
        layer(torch.ones(1, 3))
        integers, qparams = arq_quantize(layer.weight.detach(), layer.config.layer.weight)
        assert qparams.scale.item() == step
        codes.append(integers[0, 1].item())
        layer.weight.grad = torch.tensor([[0.0, -0.3 * step, 0.0]])
        optimizer.step()
    assert codes == [10.0, 10.0, 11.0]


@pytest.mark.parametrize("name", NAMES)
def test_switched_off_it_is_the_float_layer(name):
    kind = KINDS[name]
    layer = kind.qat(*kind.sizes, **kind.geometry, config={"retrain_enable": False})
    before = state(layer)
    x = kind.batch()
    expected = kind.plain_function(x, layer.weight, layer.bias, **kind.geometry)
    assert same_bits(layer(x), expected)
    assert same_bits(layer.eval()(x), expected)
    assert same_state(state(layer), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_switched_off_a_transposed_convolution_takes_an_output_size():
    off = ConvTranspose2dQAT(2, 3, 3, 2, config={"retrain_enable": False})
    on = ConvTranspose2dQAT(2, 3, 3, 2, config=config({"clip_max": 1.0}))
    x = torch.rand(1, 2, 4, 4)
    assert off(x).shape == on(x).shape == (1, 3, 9, 9)
    assert off(x, [10, 9]).shape == on(x, [10, 9]).shape == (1, 3, 10, 9)
    with pytest.raises(ValueError, match="requested an output size of"):
        on(x, [12, 9])


@pytest.mark.parametrize("name", NAMES)
def test_a_given_range_is_used_from_the_first_forward(name):
    layer = KINDS[name].layer({"clip_max": 0.5, "batch_num": 4})
    for x in (KINDS[name].batch(), 100 * KINDS[name].batch()):
        clip = Clip(torch.tensor(0.5), torch.tensor(-1.0))
        params = {"weight": layer.weight, "bias": layer.bias, "clip": clip}
        expected = KINDS[name].function(x, params, layer.config.layer, **KINDS[name].geometry)
        assert same_bits(layer(x), expected)
    assert layer.cur_batch == 0
    assert (layer.acts_clip_max.item(), layer.acts_clip_min.item()) == (0.5, -1.0)


@pytest.mark.parametrize("given", [None, 2.0])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_trained_weight_scales_start_at_arq_and_train(name, reciprocal, given):
    layer = KINDS[name].layer({"clip_max": given}, LEARNED | {"s_rec_flag": reciprocal})
    layout = {"transposed": layer.operator.transposed, "groups": getattr(layer, "groups", 1)}
    qparams = arq_qparams(layer.weight, layer.config.layer.weight, **layout)
    first = per_output(qparams.scale, **layout)
    layer(KINDS[name].batch())
    assert same_bits(layer.wts_scales.detach(), 1.0 / first if reciprocal else first)
    layer(KINDS[name].batch()).square().sum().backward()
    assert layer.wts_scales.grad.all()
    with torch.no_grad():
        layer.weight.mul_(2.0)
        layer.wts_scales.mul_(1.125)
    trained = layer.wts_scales.detach().clone()
    layer(KINDS[name].batch())
    assert same_bits(layer.wts_scales.detach(), trained), "a scale starts once"


def test_a_trained_reciprocal_gets_the_reciprocals_gradient():
    # With u = 1 / s the chain rule gives dL/du = -s^2 dL/ds.
    layers = [
        LinearQAT(6, 3, config=config({"clip_max": 1.0}, LEARNED | {"s_rec_flag": flag}))
        for flag in (False, True)
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(4, 6)
    for layer in layers:
        layer(x).square().sum().backward()
    scale, plain, reciprocal = (
        layers[0].wts_scales,
        layers[0].wts_scales.grad,
        layers[1].wts_scales.grad,
    )
    torch.testing.assert_close(reciprocal, -scale.detach().square() * plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("high", "low", "resolved"),
    [
        (-3.0, 3.0, (2.0, -1.0)),  # crossed: both
        (0.5, 0.5, (2.0, -1.0)),  # empty: both
        (-0.5, -0.75, (2.0, -0.75)),  # the upper end below 0
        (3.0, 0.25, (3.0, -1.0)),  # the lower end above 0
        (3.0, -0.25, (3.0, -0.25)),  # valid
    ],
)
def test_a_range_without_meaning_is_replaced_by_the_last_valid_one(high, low, resolved):
    layer = LinearQAT(3, 2, config=config({"clip_max": 2.0, "clip_min": -1.0}))
    layer(torch.ones(1, 3))
    layer.acts_clip_max.data.fill_(high)
    layer.acts_clip_min.data.fill_(low)
    x = torch.linspace(-4.0, 4.0, 24).reshape(8, 3)
    params = {"weight": layer.weight, "bias": layer.bias}
    params["clip"] = Clip(*(torch.tensor(end) for end in resolved))
    expected = KINDS["linear"].function(x, params, layer.config.layer)
    assert same_bits(layer.eval()(x), expected)
    assert (layer.acts_clip_max.item(), layer.acts_clip_min.item()) == (high, low)

    assert same_bits(layer.train()(x), expected)
    for suffix in ("", "_pre"):
        kept = tuple(getattr(layer, f"acts_clip_{end}{suffix}").item() for end in ("max", "min"))
        assert kept == resolved


def test_a_layer_called_twice_counts_both_calls_and_trains():
    layer = LinearQAT(3, 3, config=config({"batch_num": 2}))
    layer(layer(torch.randn(4, 3)))
    assert layer.calibrated
    layer(layer(torch.randn(4, 3))).sum().backward()
    assert layer.weight.grad.any()
    assert layer.acts_clip_max.grad is not None


@pytest.mark.parametrize("name", NAMES)
def test_functional_call_leaves_the_callers_tensors_alone(name):
    layer, x = calibrated(name)
    mine = {key: value.detach().clone() for key, value in layer.named_parameters()}
    mine["acts_clip_max"].fill_(-1.0)  # a crossed range, which training replaces
    before = {key: value.clone() for key, value in mine.items()}
    own = {key: value.detach().clone() for key, value in layer.named_parameters()}
    functional_call(layer, mine, (x,))
    assert all(same_bits(mine[key], before[key]) for key in mine)
    assert all(same_bits(layer.get_parameter(key).detach(), own[key]) for key in own)


@pytest.mark.parametrize("name", NAMES)
def test_functional_call_computes_with_the_callers_tensors(name):
    layer, x = calibrated(name)
    other, _ = calibrated(name)
    mine = {key: value.detach() for key, value in other.named_parameters()}
    assert same_bits(functional_call(layer, mine, (x,)), other(x))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_computes_in_float32(name, training):
    layer, x = calibrated(name)
    layer.train(training)
    narrow = x.to(torch.bfloat16)
    expected = layer(narrow.to(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(layer(narrow), expected)
        assert same_bits(layer(x), layer(x.clone()))
    gradients = []
    for cast in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            loss = layer(x).sum()
        loss.backward()
        gradients.append(layer.weight.grad)
    assert same_bits(*gradients)


def test_autocast_calibrates_in_float32():
    layers = [LinearQAT(8, 4), LinearQAT(8, 4)]
    x = torch.randn(5, 8).to(torch.bfloat16)
    layers[0](x.to(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers[1](x)
    assert same_bits(layers[0].acts_clip_max.detach(), layers[1].acts_clip_max.detach())


def test_on_the_meta_device_it_gives_shapes():
    layer = Conv2dQAT(2, 3, 3, device="meta", config=config({"clip_max": 1.0}))
    assert layer(torch.empty(1, 2, 5, 5, device="meta")).shape == (1, 3, 3, 3)


def test_a_batch_of_nothing_after_calibration():
    layer, _ = calibrated("linear")
    assert layer(torch.empty(0, 5)).shape == (0, 4)


def test_adam_trains_weights_scales_and_ranges():
    torch.manual_seed(1)
    learned = config({"batch_num": 2}, LEARNED | {"channel_wise": True})
    model = nn.Sequential(
        Conv2dQAT(1, 4, 3, config=learned), nn.ReLU(), nn.Flatten(), LinearQAT(64, 1)
    )
    x = torch.randn(32, 1, 6, 6)
    target = x.square().mean((1, 2, 3)).unsqueeze(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before, losses = state(model), []
    for _ in range(40):
        loss = nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.1 * np.mean(losses[:5])
    moved = [
        key
        for key, value in model.named_parameters()
        if value.requires_grad and not torch.equal(value, before[key])
    ]
    trained = [key for key, value in model.named_parameters() if value.requires_grad]
    assert moved == trained
