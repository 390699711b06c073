"""What training programs do beside stepping: accumulate, checkpoint, average, optimize faster."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn
from torch.utils.checkpoint import checkpoint

from bridge import LinearQAT, MatMulQAT, calibrate, parameter_groups, whole_parameters
from tests.support.bits import same_bits, same_state
from tests.support.modules.layers import LEARNED, config, state
from tests.support.modules.network import Net


def batches(count):
    return [torch.randn(4, 1, 8, 8) for _ in range(count)]


def trained():
    net = Net()
    calibrate(net, batches(1))
    net(batches(1)[0]).square().mean().backward()
    return net


def gradients(net):
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("data", [None, {"clip_max": 1.0}])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_computes_the_same_and_calibrates_once(reentrant, data):
    plain, saving = Net(3, data), Net(3, data)
    for x in batches(6):
        for net in (plain, saving):
            net.zero_grad()
        x.requires_grad_()  # what reentrant checkpoints need
        y, wanted = checkpoint(saving, x, use_reentrant=reentrant), plain(x)
        assert same_bits(y, wanted)
        before = state(saving)
        y.square().mean().backward()
        assert same_state(state(saving), before), "the forward in backward() moves nothing"
        wanted.square().mean().backward()
        found, expected = gradients(saving), gradients(plain)
        assert list(found) == list(expected)
        assert all(same_bits(found[name], expected[name]) for name in found)
        assert same_state(before, state(plain))
        for net in (plain, saving):
            torch.optim.SGD(net.parameters(), lr=0.01).step()
    assert saving.conv.calibrated
    assert saving.conv.cur_batch == (0 if data else 3)


class Repeated(nn.Module):
    """Two layers that a step calls several times, each call a checkpoint of its own or not."""

    def __init__(self, batch_num):
        super().__init__()
        torch.manual_seed(0)
        self.fc = LinearQAT(6, 6, config=config({"batch_num": batch_num}))
        self.product = MatMulQAT(config=config({"batch_num": batch_num}))

    def part(self, x):
        return torch.relu(self.product(self.fc(x), x.mT)).expand(-1, -1, 6)

    def forward(self, x, reentrant=None):
        for _ in range(3):
            x = (
                self.part(x)
                if reentrant is None
                else checkpoint(self.part, x, use_reentrant=reentrant)
            )
        return x


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("batch_num", [1, 2, 3, 4, 5])
def test_a_layer_may_be_called_several_times_while_its_calibration_ends(reentrant, batch_num):
    plain, saving = Repeated(batch_num), Repeated(batch_num)
    for x in 2 * [torch.randn(4, 1, 6) for _ in range(2)]:
        for net, how in ((plain, None), (saving, reentrant)):
            net.zero_grad()
            net(x.clone().requires_grad_(), how).square().mean().backward()
            torch.optim.SGD(net.parameters(), lr=0.01).step()
        found, wanted = gradients(saving), gradients(plain)
        assert list(found) == list(wanted)
        assert all(same_bits(found[name], wanted[name]) for name in found)
        assert same_state(state(saving), state(plain))
    assert saving.fc.calibrated


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_batch_that_calibrated_may_come_again(reentrant):
    plain, saving, x = Repeated(1), Repeated(1), torch.randn(4, 1, 6)
    for net, how in ((plain, None), (saving, reentrant)):
        net.fc(x)  # nobody differentiates this call, and no optimizer steps
        net(x.clone().requires_grad_(), how).square().mean().backward()
    assert all(same_bits(gradients(saving)[name], g) for name, g in gradients(plain).items())


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_replaces_a_crossed_range_once(reentrant):
    net = trained()
    with torch.no_grad():
        net.fc.acts_clip_max.fill_(-1.0)
    twin, x = copy.deepcopy(net), batches(1)[0].requires_grad_()
    net.zero_grad()
    twin.zero_grad()
    checkpoint(net, x, use_reentrant=reentrant).sum().backward()
    twin(x).sum().backward()
    assert same_state(state(net), state(twin))
    for found, wanted in zip(gradients(net).values(), gradients(twin).values(), strict=True):
        assert same_bits(found, wanted)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    net = trained()
    whole, parts = copy.deepcopy(net), copy.deepcopy(net)
    x = batches(1)[0]
    for model in (whole, parts):
        model.zero_grad()
    whole(x).square().mean().backward()
    for part in x.chunk(4):
        (parts(part).square().mean() / 4).backward()
    # The same products, summed part by part: last bits differ.
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-4, atol=1e-6)
    assert same_state(state(parts), state(whole))


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_of_weights_averages_ranges_and_computes_by_them(use_buffers):
    net, decay = trained(), 0.75
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers)
    averaged.update_parameters(net)  # the first update copies
    kept = {name: p.detach().clone() for name, p in net.named_parameters()}
    torch.optim.SGD(net.parameters(), lr=0.05).step()
    averaged.update_parameters(net)
    with torch.no_grad():
        by_hand = copy.deepcopy(net)
        for name, parameter in by_hand.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.lerp(parameter, kept[name], decay))
    x = batches(1)[0]
    ours, theirs = by_hand.eval(), averaged.eval()
    for name in ("conv.weight", "conv.acts_clip_max", "product.other_clip_min", "fc.wts_scales"):
        # lerp from one end or from the other: last bits differ.
        found, wanted = theirs.module.get_parameter(name), ours.get_parameter(name)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
        assert not torch.equal(found, net.get_parameter(name))
    loaded = Net()
    loaded.load_state_dict(averaged.module.state_dict())
    assert same_bits(loaded.eval()(x), theirs(x))
    assert same_bits(theirs.module.conv.acts_scale, loaded.conv.acts_scale)


AVERAGES = {"mean": {}, "by function": {"avg_fn": get_swa_avg_fn()}}
"""Beside the moving average above. (torch's get_swa_multi_avg_fn takes no integer buffers.)"""


@pytest.mark.parametrize("how", AVERAGES)
@pytest.mark.parametrize("reciprocal", [True, False])
def test_a_mean_of_models_keeps_what_is_the_same_in_all(reciprocal, how):
    kept = LEARNED | {"s_rec_flag": reciprocal}
    wide = {"dst_type": "INT16"}
    net = nn.Sequential(LinearQAT(5, 4, config=config(wide, kept)), LinearQAT(4, 3))
    averaged = AveragedModel(net, use_buffers=True, **AVERAGES[how])
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(4):
        net(torch.randn(6, 5)).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(net)
    found = averaged.module.eval().state_dict()
    assert bool(found["0.s_rec_flag"]) is reciprocal
    assert found["0.cur_batch"] == 1
    loaded = nn.Sequential(LinearQAT(5, 4, config=config(wide, kept)), LinearQAT(4, 3))
    loaded.load_state_dict(found)
    x = torch.randn(6, 5)
    assert same_bits(loaded.eval()(x), averaged.module(x))


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_that_was_made_before_calibration_is_calibrated(use_buffers):
    net, x = Net(batch_num=2), batches(3)
    averaged = AveragedModel(net, use_buffers=use_buffers)
    net(x[0])
    averaged.update_parameters(net)
    assert not averaged.eval().module.conv.calibrated
    averaged = AveragedModel(Net(batch_num=2), use_buffers=use_buffers)
    net(x[1])
    averaged.update_parameters(net)
    assert same_bits(averaged.eval()(x[2]), net.eval()(x[2]))


OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW]


@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_and_foreach_optimizers_step_alike(optimizer, how):
    nets = [trained(), trained()]
    nets[1].load_state_dict(nets[0].state_dict())
    data = batches(3)
    for net, option in zip(nets, ({how: True}, {how: False}), strict=True):
        chosen = optimizer(parameter_groups(net), lr=1e-3, **option)
        for x in data[:2]:
            chosen.zero_grad()
            net(x).square().mean().backward()
            chosen.step()
    # Fused kernels contract a multiplication and an addition into one rounding, and a last bit
    # may move a value to the next code.
    for (name, found), wanted in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5, equal_nan=True, msg=name)
    assert nets[0].conv.acts_clip_max != Net().conv.acts_clip_max


def test_groups_hold_each_trained_parameter_once():
    net = Net()
    shared = nn.Sequential(net, net.fc.share(), nn.Linear(3, 2))
    groups = parameter_groups(shared, ranges={"lr": 1e-4}, scales={"lr": 1e-5, "weight_decay": 0.1})
    optimizer = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.2)
    own, ranges, scales = optimizer.param_groups
    assert [(g["lr"], g["weight_decay"]) for g in (own, ranges, scales)] == [
        (1e-2, 0.2),
        (1e-4, 0.0),
        (1e-5, 0.1),
    ]
    found = [p for group in groups for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in shared.parameters() if p.requires_grad}
    assert len(found) == len({id(p) for p in found})
    names = {id(p): name for name, p in shared.named_parameters()}
    assert {names[id(p)] for p in ranges["params"]} == {
        name for name in names.values() if "_clip_" in name
    }
    assert [names[id(p)] for p in scales["params"]] == ["0.fc.wts_scales"]


def test_groups_leave_out_what_is_held_and_what_there_is_not():
    assert [len(group["params"]) for group in parameter_groups(nn.Linear(2, 2))] == [2]
    layer = LinearQAT(2, 2)
    layer.acts_clip_min.requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(layer)] == [2, 1]
    assert parameter_groups(nn.ReLU()) == []


def test_whole_parameters_are_those_of_quantization():
    net = Net()
    names = {name for name, p in net.named_parameters() if p in whole_parameters(net)}
    assert names == {n for n, _ in net.named_parameters() if "_clip_" in n or "wts_" in n}
