"""What quantization costs a training step: time and bytes kept, as ratios to float32 training.

    python benchmarks/training.py [--rounds 15] [--threads 1] [--only linear conv tiny ...]

A step is forward, backward and SGD. The contestants take turns, one step each a round, so that
they share whatever else the machine does. Time is CPU time; a ratio is a contestant's step over
float's of the same round, and what is printed its median and quartiles over the rounds. The bytes
kept for backward are those of distinct storages other than the parameters', which exist anyhow.

A second table has the microseconds that a quantized layer on tiny tensors takes above torch's own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bridge import Conv2dQAT, LinearQAT, calibrate
from bridge.modules.base import QATLayer
from qatfunc import exact
from examples.networks import lenet, resnet18

WARM_UP = 2


class Workload(NamedTuple):
    """A quantized network, its input, and whether somebody wants the input's gradient."""

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    inner: bool = False


def linear_stack() -> nn.Module:
    """Four times two linear layers, as in a transformer's feed-forward blocks."""
    blocks = [[LinearQAT(512, 2048), nn.ReLU(), LinearQAT(2048, 512)] for _ in range(4)]
    return nn.Sequential(*(layer for block in blocks for layer in block))


WORKLOADS = {
    "resnet": Workload("ResNet-18, 8x3x112x112", resnet18, (8, 3, 112, 112)),
    "lenet": Workload("LeNet, 64x1x28x28", lenet, (64, 1, 28, 28)),
    "linear": Workload("4 x Linear 512-2048-512, 64x32x512", linear_stack, (64, 32, 512)),
    "conv": Workload(
        "Conv2d 64-64 3x3, 8x64x56x56",
        lambda: Conv2dQAT(64, 64, 3, padding=1),
        (8, 64, 56, 56),
        True,
    ),
}


class LearnableFakeQuant(nn.Module):
    """A float layer behind torch's own learnable fake quantization of input and weight."""

    def __init__(self, layer: QATLayer) -> None:
        super().__init__()
        self.layer, self.axis = layer.to_float(), 0
        scale, zero_point = layer.acts_scale, layer.acts_offset_deploy
        self.scale = nn.Parameter(scale.detach().clone())
        self.zero_point = nn.Parameter(zero_point.detach().to(torch.float32))
        self.weight_scale = nn.Parameter(layer.wts_scales.detach().clone())
        self.weight_zero = nn.Parameter(torch.zeros_like(self.weight_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.scale, self.zero_point, -128, 127, 1.0
        )
        weight = self._quantized_weight()
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)

    def _quantized_weight(self) -> Tensor:
        scale, zero, weight = self.weight_scale, self.weight_zero, self.layer.weight
        if scale.numel() == 1:
            return torch._fake_quantize_learnable_per_tensor_affine(
                weight, scale, zero, -128, 127, 1.0
            )
        return torch._fake_quantize_learnable_per_channel_affine(
            weight, scale, zero, 0, -128, 127, 1.0
        )


class Contestant(NamedTuple):
    """A way to train: what becomes of a quantized layer, and where steps run."""

    title: str
    convert: Callable[[QATLayer], nn.Module] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


CONTESTANTS = [
    Contestant("float32", lambda layer: layer.to_float()),
    Contestant("quantized, fused"),
    Contestant(
        "quantized, plain composition",
        context=partial(mock.patch.object, exact, "_can_fuse", return_value=False),
    ),
    Contestant("torch learnable fake quant", LearnableFakeQuant),
]


class Trainer:
    """One contestant's network, optimizer and step on one workload."""

    def __init__(self, contestant: Contestant, workload: Workload) -> None:
        torch.manual_seed(0)
        self.context, model = contestant.context, workload.make()
        self.x = torch.randn(workload.shape)
        calibrate(model, [self.x])
        self.x.requires_grad_(workload.inner)
        self.model = converted(model, contestant.convert).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)

    def step(self) -> float:
        """Train once; return CPU seconds."""
        with self.context():
            started = time.process_time()
            self.optimizer.zero_grad()
            self.x.grad = None
            self.model(self.x).square().mean().backward()
            self.optimizer.step()
            return time.process_time() - started

    def bytes_kept(self) -> int:
        """Return the bytes that a forward keeps for backward."""
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            storage = t.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return t

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with self.context(), hooks:
            y = self.model(self.x)
        parameters = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        size = sum(size for address, size in kept.items() if address not in parameters)
        del y  # until here its graph holds the storages, so that no address is used twice
        return size


def converted(model: nn.Module, convert: Callable[[QATLayer], nn.Module] | None) -> nn.Module:
    """Replace every quantized layer of a model."""
    model.eval()  # brings scales and zero points up to date
    if convert is None:
        return model
    if isinstance(model, QATLayer):
        return convert(model)
    for name, child in model.named_children():
        setattr(model, name, converted(child, convert))
    return model


def measure(workload: Workload, rounds: int) -> list[tuple[str, list[float], float, float]]:
    """Return each contestant's title, ratios of time, ratio of bytes, and median milliseconds."""
    trainers = [Trainer(contestant, workload) for contestant in CONTESTANTS]
    kept = [trainer.bytes_kept() for trainer in trainers]
    for _ in range(WARM_UP):
        for trainer in trainers:
            trainer.step()
    times = [[trainer.step() for trainer in trainers] for _ in range(rounds)]
    rows = []
    for index, contestant in enumerate(CONTESTANTS):
        ratios = [row[index] / row[0] for row in times]
        milliseconds = 1e3 * statistics.median(row[index] for row in times)
        rows.append((contestant.title, ratios, kept[index] / kept[0], milliseconds))
    return rows


TINY = {
    "Linear 4-4, 2x4": (nn.Linear(4, 4), (2, 4)),
    "Conv2d 2-2 3x3, 1x2x5x5": (nn.Conv2d(2, 2, 3, padding=1), (1, 2, 5, 5)),
}


def overheads(layer: nn.Module, shape: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Return microseconds above torch's own layer: a forward, a forward and backward."""
    x = torch.randn(shape, requires_grad=True)
    kind = LinearQAT if isinstance(layer, nn.Linear) else Conv2dQAT
    quantized = kind.from_float(layer)
    calibrate(quantized, [x.detach()])
    pair = (layer, quantized.train())
    steps = [lambda m: m(x), lambda m: m(x).sum().backward()]
    above = []
    for step in steps:
        times = [[microseconds(partial(step, module)) for module in pair] for _ in range(rounds)]
        above.append(statistics.median(ours - torchs for torchs, ours in times))
    return above[0], above[1]


def microseconds(function: Callable[[], Any], calls: int = 200) -> float:
    """Return CPU microseconds a call."""
    started = time.process_time()
    for _ in range(calls):
        function()
    return 1e6 * (time.process_time() - started) / calls


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[*WORKLOADS, "tiny"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    title = (
        f"Training step over float32's, {arguments.rounds} rounds, {arguments.threads} thread(s)"
    )
    table = Table("workload", "contestant", "time", "quartiles", "ms", "bytes kept", title=title)
    only = arguments.only or [*WORKLOADS, "tiny"]
    for name in filter(only.__contains__, WORKLOADS):
        workload = WORKLOADS[name]
        for label, ratios, kept, milliseconds in measure(workload, arguments.rounds):
            low, median, high = statistics.quantiles(ratios, n=4)
            table.add_row(
                workload.title if label == CONTESTANTS[0].title else "",
                label,
                f"{median:.2f}",
                f"{low:.2f}-{high:.2f}",
                f"{milliseconds:.1f}",
                f"{kept:.2f}",
            )
        table.add_section()
    console = Console(width=110)
    if table.row_count:
        console.print(table)
    if "tiny" in only:
        tiny = Table("layer", "forward", "forward and backward", title="Microseconds above torch's")
        for title, (layer, shape) in TINY.items():
            above = overheads(layer, shape, arguments.rounds)
            tiny.add_row(title, *(f"{value:.0f}" for value in above))
        console.print(tiny)


if __name__ == "__main__":
    main()
