"""Training that diverges: ranges go on from their last valid ends, and nothing crashes."""

import copy

import pytest
import torch
from torch import nn

from bridge import LinearQAT, MatMulQAT, calibrate, functionalize
from tests.support.bits import same_bits
from tests.support.exporters import export
from tests.support.modules.layers import KINDS, NAMES, calibrated, config, state

ENDS = [torch.nan, torch.inf, -torch.inf, 3e38, -3e38]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("which", ["max", "min"])
@pytest.mark.parametrize("name", NAMES)
def test_an_end_that_is_not_finite_is_replaced(name, which, end):
    layer, x = calibrated(name)
    wanted, kept = layer(x), dict(layer.named_buffers())
    low, high = layer.acts_clip_min.item(), layer.acts_clip_max.item()
    getattr(layer, f"acts_clip_{which}").data.fill_(end)
    assert same_bits(layer.eval()(x), wanted)
    assert same_bits(layer.train()(x), wanted)
    assert (layer.acts_clip_min.item(), layer.acts_clip_max.item()) == (low, high)
    assert same_bits(layer.acts_clip_max_pre, kept["acts_clip_max_pre"])
    layer(x).square().sum().backward()
    assert layer.acts_clip_max.grad.isfinite()


@pytest.mark.parametrize("end", ENDS)
def test_a_products_range_is_replaced(end):
    product, a, b = MatMulQAT(), torch.randn(3, 4), torch.randn(4, 2)
    calibrate(product, [(a, b)])
    wanted = product.train()(a, b)
    product.other_clip_max.data.fill_(end)
    assert same_bits(product(a, b), wanted)
    assert product.other_clip_max_pre.isfinite()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("training", [True, False])
def test_compiled_and_functional_forms_agree(training, end):
    torch._dynamo.reset()
    layer, x = calibrated("conv2d")
    layer.train(training)(x)
    params, held = functionalize(layer).init()
    layer.acts_clip_max.data.fill_(end)
    params["acts_clip_max"] = torch.tensor(end)
    eager, compiled = copy.deepcopy(layer), torch.compile(layer, fullgraph=True, backend="eager")
    wanted = eager(x)
    assert same_bits(compiled(x), wanted)
    y, after = functionalize(layer).update(params, held, x)
    assert same_bits(y, wanted)
    assert same_bits(after.buffers["acts_clip_max_pre"], eager.acts_clip_max_pre)
    assert same_bits(layer.acts_clip_max_pre, eager.acts_clip_max_pre)


class Product(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first, self.product = LinearQAT(5, 5, **options), MatMulQAT()

    def forward(self, x):
        x = self.first(x)
        return self.product(x, x.mT)


@pytest.mark.parametrize("rate", [1e3, 1e20, 1e38])
@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
@pytest.mark.parametrize("bits", ["INT8", "INT16"])
@pytest.mark.parametrize("name", [*NAMES, "product"])
def test_a_diverged_training_ends_in_a_nan_loss(name, bits, algorithm, rate):
    torch.manual_seed(0)
    weight = {"weights_retrain_algo": algorithm}
    if name == "product":
        net, x = Product(config=config({"dst_type": bits}, weight)), torch.randn(3, 5)
    else:
        net, x = KINDS[name].layer({"dst_type": bits}, weight), KINDS[name].batch()
    calibrate(net, [x])
    net.train()
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    if rate > 1e30 and algorithm == "arq_retrain":  # trained scales let weights saturate
        assert not torch.isfinite(losses[-1])
    net.eval()(x)
    kept = [b for n, b in net.named_buffers() if n.endswith(("_clip_max_pre", "_clip_min_pre"))]
    assert torch.isfinite(torch.stack(kept)).all()
    net.state_dict()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("rows", [2, 400])
def test_a_nan_in_the_data_or_a_gradient_is_no_crash(rows, value):
    layer, _ = calibrated("linear")
    x = torch.randn(rows, 5, requires_grad=True)
    x.data[0, 0] = value
    layer.train()(x).sum().backward()
    layer(torch.randn(rows, 5)).backward(torch.full((rows, 4), torch.nan))
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    layer(torch.randn(rows, 5)).sum().backward()
    assert layer.acts_clip_max_pre.isfinite()
    assert layer.acts_clip_max.isfinite()


def test_calibration_refuses_what_no_range_holds():
    net = nn.Sequential(nn.Identity(), LinearQAT(3, 2))
    message = r"^1 \(LinearQAT\): calibration input must be at most 2\^63 \(9.2e18\) in magnitude"
    with pytest.raises(ValueError, match=message):
        calibrate(net, [torch.full((2, 3), 1e20)])
    model = functionalize(net)
    params, held = model.init()
    with pytest.raises(ValueError, match=r"^1: calibration input has NaN or infinite values"):
        model.calibrate(params, held, torch.full((2, 3), torch.nan))


@pytest.mark.parametrize("exporter", ["default", "torchscript"])
def test_a_products_range_that_is_not_a_number_is_named_at_export(tmp_path, exporter):
    net = Product()
    x = torch.randn(3, 5)
    calibrate(net, [x])
    net.product.other_clip_min.data.fill_(torch.nan)
    with pytest.raises(Exception, match=r"product \(MatMulQAT\).*other_clip_min is nan"):
        export(net.eval(), (x,), tmp_path / "inter.onnx", exporter)


@pytest.mark.parametrize("end", [torch.inf, torch.nan])
def test_a_checkpoint_with_a_diverged_range(end):
    layer, x = calibrated("linear")
    wanted = layer(x)
    layer.acts_clip_max.data.fill_(end)
    saved = layer.state_dict()
    loaded, _ = calibrated("linear")
    loaded.load_state_dict(saved)
    assert same_bits(loaded(x), wanted)
    saved["acts_clip_max_pre"] = torch.tensor(end)
    with pytest.raises(RuntimeError, match=rf"acts_clip_max is {end}, which is no end of a range"):
        loaded.load_state_dict(saved)


def test_what_diverged_is_kept_out_of_a_checkpoints_last_valid_range():
    layer, x = calibrated("linear")
    layer.acts_clip_max.data.fill_(torch.inf)
    layer(x)
    assert all(t.isfinite().all() for n, t in state(layer).items() if t.is_floating_point())
