"""nn.DataParallel's replicas and shallow copies share no state with the module they come from."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge import Conv2dQAT, LinearQAT, MatMulQAT, calibrate, freeze_weight_scales
from tests.support.bits import same_bits, same_state
from tests.support.exporters import export
from tests.support.modules.layers import LEARNED, config, state


class Net(nn.Module):
    def __init__(self, **data: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Sequential(Conv2dQAT(2, 4, 3, config=config(data)), nn.BatchNorm2d(4))
        self.product = MatMulQAT()
        self.fc = LinearQAT(6, 3, config=config(data, LEARNED))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.product(x, x.transpose(-1, -2)))


def ready() -> tuple[nn.Module, Tensor]:
    net, x = Net(), torch.randn(4, 2, 8, 8)
    calibrate(net, [x])
    return net, x


def replicas_of(net: nn.Module, count: int) -> list[nn.Module]:
    """Do what torch.nn.parallel.replicate does, on a CPU."""
    modules = list(net.modules())
    copies = [[m._replicate_for_data_parallel() for m in modules] for _ in range(count)]
    at = {module: index for index, module in enumerate(modules)}
    for i, module in enumerate(modules):
        for made in copies:
            for name, child in module._modules.items():
                setattr(made[i], name, made[at[child]])
            for name, parameter in module._parameters.items():
                # no longer leaves, hence plain attributes
                setattr(made[i], name, None if parameter is None else parameter.clone())
            for name, buffer in module._buffers.items():
                setattr(made[i], name, buffer)  # those of the first device are the original's
    return [made[0] for made in copies]


def kept(net: nn.Module) -> dict[str, int]:
    """Which tensors a module's layers keep beside their tables."""
    return {
        f"{path}.{name}": id(x)
        for path, module in net.named_modules()
        for name, x in module.__dict__.get("_real", {}).items()
    }


def test_replicas_compute_and_differentiate_as_one_module_on_the_whole_batch():
    net, x = ready()
    whole = copy.deepcopy(net).eval()
    wanted = whole(x)
    wanted.square().mean().backward()
    replicas = replicas_of(net.eval(), 2)
    y = torch.cat([replica(part) for replica, part in zip(replicas, x.chunk(2), strict=True)])
    y.square().mean().backward()
    assert same_bits(y, wanted)
    for (name, found), expected in zip(net.named_parameters(), whole.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None, name
        else:  # summed in two parts, so last bits differ
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_a_replicas_forward_leaves_the_module_as_it_was(tmp_path):
    net, x = ready()
    freeze_weight_scales(net.conv)
    before, tensors, tables = state(net), kept(net), net.fc._calibration
    for replica in replicas_of(net, 2):
        replica(x).sum().backward()
        assert replica.fc._calibration is not tables
        replica.eval()
        replica.train()
    assert kept(net) == tensors
    after = {k: v for k, v in state(net).items() if "conv.1." not in k}
    assert same_state(after, {k: v for k, v in before.items() if "conv.1." not in k})
    copy.deepcopy(net)
    with torch.no_grad():
        net.fc.acts_clip_max.mul_(2.0)
        net.fc.weight.mul_(2.0)
    for name in ("mine", "fresh"):
        model = net if name == "mine" else Net()
        if name == "fresh":
            model.load_state_dict(net.state_dict())
        export(model.eval(), (x,), tmp_path / f"{name}.onnx", "torchscript")
    assert (tmp_path / "mine.onnx").read_bytes() == (tmp_path / "fresh.onnx").read_bytes()


def test_a_crossed_range_is_replaced_in_the_module_and_in_its_replicas():
    net, x = ready()
    net(x)
    alone = copy.deepcopy(net)
    for model in (net, alone):
        with torch.no_grad():
            model.fc.acts_clip_max.fill_(-1.0)
            model.product.other_clip_min.fill_(1.0)
    (replica,) = replicas_of(net, 1)
    assert same_bits(replica(x), alone(x))
    assert same_state(state(net.fc), state(alone.fc))
    assert same_state(state(net.product), state(alone.product))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Net, lambda: Net(batch_num=2)], ids=["none seen", "one of two"])
def test_an_uncalibrated_replica_is_refused(kind, training):
    net, x = kind(), torch.randn(4, 2, 8, 8)
    if net.fc.config.search.batch_num == 2:
        net(x)
    net.train(training)
    before = state(net.fc)
    with pytest.raises(RuntimeError, match=r"conv\.0 \(Conv2dQAT\) is not calibrated.*replica"):
        replicas_of(net, 1)[0](x)
    assert same_state(state(net.fc), before)
    for _ in range(2):
        net.train()(x)
    replicas_of(net, 1)[0](x)


def test_scales_that_have_not_started_are_refused_too():
    net, x = LinearQAT(5, 3, config=config({"clip_max": 1.0}, LEARNED)), torch.randn(2, 5)
    with pytest.raises(RuntimeError, match="replica"):
        replicas_of(net, 1)[0](x)
    replicas_of(net.eval(), 1)[0](x)
    net.train()(x)
    replicas_of(net, 1)[0](x)


def test_a_shallow_copy_has_the_weight_and_a_state_of_its_own():
    layer, x = LinearQAT(5, 3, config=config({"batch_num": 2}, LEARNED)), torch.randn(2, 5)
    layer(x)
    before = state(layer)
    copied = copy.copy(layer)
    assert copied.weight is layer.weight
    assert copied.bias is layer.bias
    assert copied.wts_scales is layer.wts_scales
    assert same_state(state(copied), before)
    copied(3 * x)
    copied(3 * x)
    copied.weight = nn.Parameter(torch.ones(3, 5))
    freeze_weight_scales(copied)
    assert copied.calibrated
    assert not layer.calibrated
    assert same_state(state(layer), before)
    copy.deepcopy(layer)(x)
    layer(x)
    assert layer.calibrated
    assert layer.acts_clip_max != copied.acts_clip_max


def test_a_shallow_copy_of_a_product():
    layer, x = MatMulQAT(), torch.randn(2, 5, 5)
    copied = copy.copy(layer)
    copied(x, x)
    assert copied.calibrated
    assert not layer.calibrated
    assert layer.input_clip_max == 1.0
