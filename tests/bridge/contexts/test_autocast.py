"""Mixed precision: quantized layers compute in float32, whatever autocast and inputs say."""

import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, LinearQAT, MatMulQAT, calibrate, convert_qat_model, verify
from bridge.modules.weighted import qat_layers
from qatfunc import ActivationSpec, Clip, operators
from tests.support.bits import same_bits
from tests.support.exporters import export
from tests.support.modules.layers import NAMES, calibrated, config, state

NARROW = [torch.bfloat16, torch.float16]


def autocast(dtype, *, enabled=True):
    return torch.autocast("cpu", dtype=dtype, enabled=enabled)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_a_narrow_input_is_widened_and_the_output_is_float32(name, dtype):
    layer, x = calibrated(name)
    narrow = x.to(dtype).requires_grad_()
    wide = narrow.detach().to(torch.float32).requires_grad_()
    expected = layer(wide)
    with autocast(dtype):
        y = layer(narrow)
    assert same_bits(y, expected)
    y.sum().backward()
    found = layer.acts_clip_max.grad.clone()
    layer.zero_grad()
    expected.sum().backward()
    assert same_bits(found, layer.acts_clip_max.grad)
    assert narrow.grad.dtype == dtype
    assert torch.equal(narrow.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_narrow_input_outside_autocast_is_refused_by_name(dtype):
    model = nn.Sequential(nn.Identity(), calibrated("linear")[0])
    with pytest.raises(ValueError, match=rf"^1 \(LinearQAT\): input must be float32, got {dtype}"):
        model(torch.ones(1, 5, dtype=dtype))
    with pytest.raises(ValueError, match=rf"^0 \(LinearQAT\): weight must be float32, got {dtype}"):
        nn.Sequential(calibrated("linear")[0]).to(dtype)(torch.ones(1, 5))


def test_sums_beyond_float16_stay_exact():
    layer = LinearQAT(512, 2, bias=False, config=config({"clip_max": 127.0, "clip_min": -128.0}))
    nn.init.ones_(layer.weight)
    x = torch.full((1, 512), 127.0)
    with autocast(torch.float16):
        y = layer(x)
    total = 127 * 127 * 512  # over a hundred times the largest float16
    assert same_bits(y, torch.full((1, 2), total * layer._arq_scale().item()))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("calibrated", [True, False])
def test_products_ignore_autocast(dtype, calibrated):
    a, b = torch.randn(2, 3, 300), torch.randn(2, 300, 4)
    clip = Clip(torch.tensor(2.0), torch.tensor(-2.0))
    params = {"input_clip": clip, "other_clip": clip} if calibrated else {}
    expected = operators.matmul(a, b, params, ActivationSpec(symmetric=True))
    with autocast(dtype):
        found = operators.matmul(a, b, params, ActivationSpec(symmetric=True))
    assert same_bits(found, expected)


class Mixed(nn.Module):
    """A float layer, which autocast reaches, before quantized ones."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(1, 2, 3)
        self.conv = Conv2dQAT(2, 4, 3)
        self.product = MatMulQAT()
        self.fc = LinearQAT(16, 3)

    def forward(self, x):
        self.seen = self.plain(x)
        x = torch.relu(self.conv(self.seen))
        return self.fc(self.product(x, x.mT).flatten(2)).sum(1)


@pytest.mark.parametrize("dtype", NARROW)
def test_calibration_and_training_within_a_mixed_model(dtype):
    model, x = Mixed(), torch.randn(4, 1, 8, 8)
    with autocast(dtype):
        calibrate(model, [x])
        y = model(x)
    assert model.seen.dtype == dtype
    assert y.dtype == torch.float32
    y.square().mean().backward()
    for _, layer in qat_layers(model):
        for name in layer.ranges:
            assert layer.get_parameter(f"{name}_clip_max").grad.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def steps(model, batches, scaler):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x in batches:
        optimizer.zero_grad()
        with autocast(torch.bfloat16):
            loss = model(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


def quantized(data=None):
    torch.manual_seed(0)
    last = LinearQAT(144, 3, config=config(data))
    model = nn.Sequential(Conv2dQAT(1, 4, 3), nn.ReLU(), nn.Flatten(), last)
    calibrate(model, [torch.randn(4, 1, 8, 8)])
    return model


def test_a_gradient_scaler_changes_no_bit_and_skips_what_overflows():
    batches = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    # A lower end of 0 may be trained to above 0, which the next forward writes back.
    below_zero = {"range_search": "ifmr"}
    plain, scaled = quantized(below_zero), quantized(below_zero)
    steps(plain, batches, torch.amp.GradScaler("cpu", enabled=False))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    steps(scaled, batches, scaler)
    before = state(scaled)
    for name, value in state(plain).items():
        assert torch.equal(value, before[name]), name
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    steps(scaled, batches[:1], scaler)
    assert scaler.get_scale() == 2.0**126
    for name, parameter in scaled.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", NARROW)
def test_deployed_models_have_the_bits_of_the_eval_model_under_autocast(dtype, tmp_path):
    model = quantized()
    steps(model, [torch.randn(4, 1, 8, 8) for _ in range(2)], torch.amp.GradScaler("cpu"))
    x = torch.randn(2, 1, 8, 8)
    inter = export(model.eval(), (x,), tmp_path / "inter.onnx", "torchscript")
    files = convert_qat_model(inter, tmp_path / "net")
    assert verify(model, inter, files.fake_quant, files.deploy, x).exact
    with autocast(dtype):
        under = model(x)
    assert same_bits(under, model(x))
