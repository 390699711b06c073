"""Error of calibrated, untrained networks by the search that found their ranges.

    python benchmarks/ranges.py [--seeds N] [NETWORK ...]

Errors are those of outputs relative to the float network, on inputs that calibration did not see:
with quantized weights and activations, and with quantized activations alone. "Clip" counts the Clip
nodes of the deploy model, each of which is a ReLU that is not the limit of its codes. Printed are
means over the seeds of the weights.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import onnx
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bridge
from examples.networks import mobilenet_v2, moves, resnet18, settle
from examples.whole_networks import LEAST_MOVE
from qatfunc.spec import SearchMethod

METHODS: tuple[SearchMethod, ...] = get_args(SearchMethod)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18, width 16": lambda: resnet18(width=16),
    "MobileNetV2, width 0.35": lambda: mobilenet_v2(width=0.35),
}
_SIZE = 96
"""Height and width of the images."""


class Outcome(NamedTuple):
    """What one search gives for one network."""

    error: float
    """Of the outputs, relative, with quantized weights and activations."""
    of_activations: float
    """The same with float weights."""
    clips: int
    """Clip nodes of the deploy model."""


@torch.no_grad()
def compare(make: Callable[[], nn.Module], seed: int) -> dict[SearchMethod, Outcome]:
    """Calibrate a network of random weights with each search.

    Args:
        make: makes the float network.
        seed: of the weights and of the data.
    Returns:
        the outcome of each search.
    Raises:
        RuntimeError: the network's output hardly depends on its input.
    """
    torch.manual_seed(seed)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    data, fresh = torch.randn(2, 16, 3, _SIZE, _SIZE)
    model = bridge.fold_batch_norm(settle(model, data).eval())
    if moves(model, fresh[:2], data[:2]) < LEAST_MOVE:
        raise RuntimeError("the output hardly depends on the input: there is nothing to compare")
    expected = model(fresh)
    return {method: _outcome(model, method, data, fresh, expected) for method in METHODS}


def _outcome(
    model: nn.Module, method: SearchMethod, data: Tensor, fresh: Tensor, expected: Tensor
) -> Outcome:
    net = bridge.prepare_qat(model, {"retrain_data_config": {"range_search": method}}).eval()
    bridge.calibrate(net, [data])
    with bridge.set_quantization(net, weights=False):
        of_activations = _relative(net(fresh), expected)
    return Outcome(_relative(net(fresh), expected), of_activations, _clips(net, fresh[:1]))


def _relative(y: Tensor, expected: Tensor) -> float:
    return float((y - expected).norm() / expected.norm())


def _clips(net: nn.Module, x: Tensor) -> int:
    with tempfile.TemporaryDirectory() as folder:
        inter = Path(folder, "inter.onnx")
        torch.onnx.export(net, (x,), str(inter), dynamo=False)
        deploy = onnx.load(bridge.convert_qat_model(inter, Path(folder, "net")).deploy)
    return sum(node.op_type == "Clip" for node in deploy.graph.node)


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # torch's, about its exporter
    table = Table("network", "search", "error", "activations alone", "Clip", "error / ifmr's")
    for name in given.networks:
        runs = [compare(NETWORKS[name], seed) for seed in range(given.seeds)]
        for method in METHODS:
            outcomes = [run[method] for run in runs]
            error, alone = (
                statistics.mean(values) for values in list(zip(*outcomes, strict=True))[:2]
            )
            ratio = statistics.mean(run[method].error / run["ifmr"].error for run in runs)
            clips = " ".join(str(outcome.clips) for outcome in outcomes)
            table.add_row(name, method, f"{error:.3%}", f"{alone:.3%}", clips, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
