"""Nothing that torch.inference_mode is around leaves tensors that cannot be trained or loaded."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bridge import (
    adopt,
    calibrate,
    convert_qat_model,
    float_model,
    fold_batch_norm,
    freeze_weight_scales,
    prepare_qat,
)
from tests.support.bits import same_state
from tests.support.exporters import export
from tests.support.modules.layers import LEARNED, config, state
from tests.support.modules.network import Net


def batch() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 2, 8, 8)


def kept(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All tensors that modules keep, in their tables and beside them."""
    for path, module in net.named_modules():
        for table in (module._parameters, module._buffers, module.__dict__.get("_real", {})):
            yield from ((f"{path}.{name}", x) for name, x in table.items() if x is not None)
        for name, seen in module.__dict__.get("_calibration", {}).items():
            yield from ((f"{path}.{name}.{field}", x) for field, x in seen._asdict().items())


def use_afterwards(net: nn.Module) -> None:
    """Do what fails on inference tensors: load, train, average, broadcast."""
    assert [name for name, x in kept(net) if x.is_inference()] == []
    net.load_state_dict({name: x.clone() for name, x in net.state_dict().items()})
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(2):
        net.train()(batch()).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(net)
    for _, buffer in net.named_buffers():
        buffer.copy_(buffer.clone())  # what a broadcast does
    net.eval()
    copy.deepcopy(net)(batch())


def validate(net: nn.Module, _: Any) -> None:
    net.eval()(batch())
    net.train()


def train_forward(net: nn.Module, _: Any) -> None:
    net.train()(batch())
    with torch.no_grad():
        net.conv.acts_clip_max.fill_(-3.0)
    net(batch())


def move(net: nn.Module, _: Any) -> None:
    net.half()
    net.to("cpu", torch.float32)


def resume(net: nn.Module, _: Any) -> None:
    net.load_state_dict({name: x.clone() for name, x in net.state_dict().items()})


def resume_by_assigning(net: nn.Module, _: Any) -> None:
    net.load_state_dict({name: x.clone() for name, x in net.state_dict().items()}, assign=True)


def hold_scales(net: nn.Module, _: Any) -> None:
    freeze_weight_scales(net)
    net.load_state_dict(net.state_dict())


def deploy(net: nn.Module, folder: Any) -> None:
    export(net.eval(), batch(), folder / "net.onnx", "torchscript")
    adopt(net, convert_qat_model(folder / "net.onnx", folder / "net"))


USES = [validate, train_forward, move, resume, resume_by_assigning, hold_scales, deploy]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_a_calibrated_model_is_as_good_afterwards(use: Callable[..., None], tmp_path):
    net = Net(channels=2)
    calibrate(net, [batch()])
    with torch.inference_mode():
        net.state_dict()
        use(net, tmp_path)
    use_afterwards(net)


@pytest.mark.parametrize("seen", [1, 2], ids=["half calibrated", "calibrated"])
@pytest.mark.parametrize("how", ["calibrate", "train", "train and resume"])
def test_a_calibration_is_the_same_and_goes_on(how, seen):
    inside, outside = Net(2, channels=2), Net(2, channels=2)
    for net, mode in ((inside, True), (outside, False)):
        with torch.inference_mode(mode):
            if how == "calibrate":
                feed = [batch()] * seen
                if seen < 2:
                    with pytest.raises(ValueError, match="ran out"):
                        calibrate(net, feed)
                else:
                    calibrate(net, feed)
            else:
                for _ in range(seen):
                    net(batch())
            if how.endswith("resume"):
                net.load_state_dict(net.state_dict())
    assert same_state(state(inside), state(outside))
    inside(batch())
    use_afterwards(inside)


def test_a_model_prepared_in_inference_mode():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.inference_mode():
        prepared = prepare_qat(net, config(None, LEARNED), inplace=True)
        calibrate(prepared, [batch()])
    use_afterwards(prepared)
    use_afterwards(float_model(prepared, inplace=True))


@pytest.mark.parametrize("make", [prepare_qat, fold_batch_norm, float_model])
def test_copies_made_in_inference_mode_train(make):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    if make is float_model:
        model = prepare_qat(model)
    with torch.inference_mode():
        made = make(model)
    assert not any(t.is_inference() for t in made.state_dict().values())
    made.train()(torch.randn(4, 2, 3, 3)).sum().backward()
