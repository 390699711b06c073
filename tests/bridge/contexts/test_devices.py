"""The same integers on every device: operators, calibration and layers, on CUDA where there is one.

TF32 holds integers up to 2^11 and adds in float32, so it is exact here; whatever algorithm cuDNN's
benchmark picks, its sums are rounded to the integers that they are close to.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bridge import Conv2dQAT, LinearQAT, MatMulQAT, calibrate
from qatfunc import ActivationSpec, LayerSpec, calibration
from qatfunc.calibration import EXACT_VALUES
from tests.support.bits import same_bits
from tests.support.functions.layers import NAMES, layer
from tests.support.modules.layers import config, state

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
SPECS = {"int8": LayerSpec(), "int16": LayerSpec(activation=ActivationSpec(bits=16))}


@pytest.fixture(
    params=[
        ("cpu", False),
        pytest.param(("cuda", False), marks=NO_CUDA),
        pytest.param(("cuda", True), marks=NO_CUDA),
    ],
    ids=["cpu", "cuda", "cuda-tf32"],
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    name, tf32 = request.param
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, True
    yield name
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", NAMES)
def test_operators_equal_integers_in_every_bit(device: str, name: str, spec: str):
    one = layer(name, SPECS[spec])
    there = tree_map(lambda t: t.clone().to(device).requires_grad_(), one.params)
    y = one(one.x.to(device), there)
    assert same_bits(y.detach().cpu(), one.expected())
    y.square().sum().backward()
    here = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    one(one.x, here).square().sum().backward()
    # Gradients are float sums: TF32 keeps 11 bits of each factor, other orders the last bits.
    tolerance = 3e-3 if torch.backends.cuda.matmul.allow_tf32 else 1e-5
    for found, wanted in zip(tree_leaves(there), tree_leaves(here), strict=True):
        largest = wanted.grad.abs().max()
        assert (found.grad.cpu() - wanted.grad).abs().max() <= tolerance * largest


@pytest.mark.parametrize("count", [1000, EXACT_VALUES + 5000])
def test_calibration_finds_the_range_that_a_cpu_finds(device: str, count: int):
    parts = torch.randn(count, generator=torch.Generator().manual_seed(0)).split(700)
    states = []
    for where in ("cpu", device):
        seen = calibration.init(where)
        for part in parts:
            seen = calibration.update(seen, part.to(where))
        states.append(calibration.merge([seen, calibration.init(where)]))
    for found, wanted in zip(states[1], states[0], strict=True):
        assert torch.equal(found.cpu(), wanted)
    clips = [calibration.finish(seen) for seen in states]
    assert clips[1].max.device.type == device
    assert all(same_bits(a.cpu(), b) for a, b in zip(clips[1], clips[0], strict=True))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        learned = config(None, {"weights_retrain_algo": "ulq_retrain"})
        self.conv, self.product = Conv2dQAT(3, 8, 3, config=learned), MatMulQAT()
        self.fc = LinearQAT(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.product(x, x.mT))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_trained_models_eval_forward_has_a_cpus_bits(device: str, autocast: bool):
    net, x = Net().to(device), torch.randn(4, 3, 16, 16)
    calibrate(net, [x.to(device)])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            loss = net(x.to(device)).square().mean()
        loss.backward()
        optimizer.step()
    twin = Net()
    twin.load_state_dict({name: value.cpu() for name, value in state(net).items()})
    with torch.no_grad():
        found = net.eval()(x.to(device)).cpu()
        assert same_bits(found, twin.eval()(x))
        assert same_bits(copy.deepcopy(net).cpu()(x), found)
