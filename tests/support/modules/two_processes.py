"""What two processes do together; each writes what came of it for the tests to look at.

python -m tests.support.modules.two_processes RANK FOLDER
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bridge import (
    Conv2dQAT,
    LinearQAT,
    MatMulQAT,
    average_whole_gradients,
    calibrate,
    parameter_groups,
    whole_parameters,
)
from tests.support.modules.layers import config, state

RANKS = 2
SECONDS = 60
SIZES = {"arq_retrain": 600, "ulq_retrain": 4}
ALGORITHMS = tuple(SIZES)
STEPS = 3


class Net(nn.Module):
    """Layers of every kind of state; the last one is calibrated on fewer batches."""

    def __init__(self, algorithm: str, batch_num: int, last: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight, data = {"weights_retrain_algo": algorithm}, {"batch_num": batch_num}
        self.conv = Conv2dQAT(1, 4, 3, config=config(data, weight))
        self.product = MatMulQAT(config=config(data))
        few = {"batch_num": last or batch_num}
        self.fc = LinearQAT(6 * 6, 3, config=config(few, weight))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.product(x, x.mT).flatten(2)).sum(1)


def batch(index: int, *, size: int = 4) -> Tensor:
    """The same batch everywhere; ranges differ from one to the next."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn(size, 1, 8, 8, generator=generator) * (1 + 0.2 * index)


def train(model: nn.Module, batches: list[Tensor], *, whole: nn.Module | None = None) -> list[Any]:
    """Take steps of SGD and return the gradients of each."""
    optimizer = torch.optim.SGD(parameter_groups(model, scales={"lr": 1e-4}), lr=0.005)
    history = []
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if whole is not None:
            average_whole_gradients(whole)
        named = model.named_parameters()
        history.append(
            {n.removeprefix("module."): p.grad.clone() for n, p in named if p.grad is not None}
        )
        optimizer.step()
    return history


def calibration(rank: int, algorithm: str) -> Any:
    """Ranges from two batches on each rank, of one algorithm large enough for histograms."""
    net = Net(algorithm, 2)
    calibrate(net, [batch(rank + RANKS * i, size=SIZES[algorithm]) for i in range(2)])
    return state(net)


def unequal(rank: int) -> Any:
    """Rank 0 has three batches, rank 1 has one."""
    net = Net("arq_retrain", 3)
    calibrate(net, [batch(i) for i in (range(3) if rank == 0 else [3])])
    return state(net)


def mixed(rank: int) -> Any:
    """A layer that has seen enough while others go on quantizes from then on, on both ranks."""
    net = Net("arq_retrain", 3, last=1)
    calibrate(net, [batch(rank + RANKS * i) for i in range(3)])
    return state(net)


def ddp(rank: int, algorithm: str) -> Any:
    """Calibrate, wrap, train on halves of the global batches."""
    net = Net(algorithm, 1)
    calibrate(net, [batch(9, size=8).chunk(RANKS)[rank]])
    halves = [batch(i, size=8).chunk(RANKS)[rank] for i in range(STEPS)]
    gradients = train(DistributedDataParallel(net), halves)
    return gradients, state(net)


def ddp_from_the_start(rank: int) -> Any:
    """Calibrate in the first steps of training."""
    net = Net("ulq_retrain", 2)
    halves = [batch(i, size=8).chunk(RANKS)[rank] for i in range(STEPS + 2)]
    gradients = train(DistributedDataParallel(net, find_unused_parameters=True), halves)
    return gradients, state(net)


def forward_alone(rank: int) -> Any:
    """A calibrated model needs nobody: only rank 0 computes."""
    net = Net("ulq_retrain", 1)
    calibrate(net, [batch(rank)])
    if rank == 0:
        net(batch(3)).square().mean().backward()
        net.eval()(batch(4))
    return state(net)


def own_group(rank: int, groups: list[Any]) -> Any:
    """A group of one process keeps its own ranges."""
    net = Net("arq_retrain", 1)
    calibrate(net, [batch(rank)], group=groups[rank])
    return state(net)


def message(net: nn.Module, batches: list[Tensor]) -> str:
    """What calibrating raises."""
    try:
        calibrate(net, batches)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def failures(rank: int) -> Any:
    """What both ranks raise where one of them goes wrong."""
    bad = torch.full((2, 1, 8, 8), torch.nan) if rank else batch(0)
    other = Net("arq_retrain", 1)
    if rank:
        other.conv.quantizes_input = False
    return {
        "NaN on rank 1": message(Net("arq_retrain", 2), [batch(0), bad]),
        "no batch on rank 1": message(Net("arq_retrain", 1), [batch(0)][: 1 - rank]),
        "too few": message(Net("arq_retrain", 3), [batch(0)]),
        "another layer": message(other, [batch(0)]),
    }


def fsdp(rank: int) -> Any:
    """Shard, calibrate, train, save whole and in parts, load the parts."""
    # A second to import, and the tests read only constants of this file.
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, again = Net("ulq_retrain", 1), Net("ulq_retrain", 1)
    mesh = init_device_mesh("cpu", (RANKS,))
    for model in (net, again):
        for part in (model.conv, model):
            fully_shard(part, mesh=mesh, ignored_params=whole_parameters(model))
    calibrate(net, [batch(9, size=8).chunk(RANKS)[rank]])
    train(net, [batch(i, size=8).chunk(RANKS)[rank] for i in range(STEPS)], whole=net)
    y = net.eval()(batch(5))
    again.load_state_dict(net.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_model_state_dict(net, options=options)
    return {"saved": saved, "y": y.detach(), "loaded": again.eval()(batch(5)).detach()}


def main(rank: int, folder: Path) -> None:
    """Do all of it and save {name: what it returned}."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=SECONDS),
    )
    groups = [dist.new_group([one]) for one in range(RANKS)]
    results = {
        "unequal": unequal(rank),
        "mixed": mixed(rank),
        "ddp from the start": ddp_from_the_start(rank),
        "forward alone": forward_alone(rank),
        "own group": own_group(rank, groups),
        "failures": failures(rank),
        "fsdp": fsdp(rank),
    }
    for algorithm in ALGORITHMS:
        results[f"calibration {algorithm}"] = calibration(rank, algorithm)
        results[f"ddp {algorithm}"] = ddp(rank, algorithm)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
