"""Fold BatchNorm of whole networks, prepare, export, convert, verify, and print a table of results.

    python -m examples.whole_networks [--layers] [NETWORK ...]

With --layers the layers of each network are printed, too.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bridge
from bridge.selection.plan import QATPlan, plan_qat
from examples import faces
from examples.networks import (
    UNet,
    VisionTransformer,
    mobilenet_v2,
    moves,
    resnet18,
    resnet50,
    settle,
)

LEAST_MOVE = 0.01
"""Least relative change of the output by another input, without which comparisons cannot fail."""


class Subject(NamedTuple):
    """A float network, calibration data and verification data."""

    make: Callable[[], nn.Module]
    calibration: Callable[[], Tensor]
    data: Callable[[], Tensor]


def _noise(*shape: int) -> Subject:
    return Subject(nn.Identity, lambda: torch.randn(shape), lambda: torch.randn(shape))


NETWORKS = {
    "ResNet-18": _noise(1, 3, 224, 224)._replace(make=resnet18),
    "ResNet-50": _noise(1, 3, 224, 224)._replace(make=resnet50),
    "MobileNetV2": _noise(1, 3, 224, 224)._replace(make=mobilenet_v2),
    "U-Net": _noise(1, 3, 64, 64)._replace(make=UNet),
    "ViT, 2 blocks": _noise(4, 3, 32, 32)._replace(make=VisionTransformer),
    "MTCNN P-Net": Subject(
        lambda: faces.pretrained(faces.Proposals),
        lambda: faces.windows(64, 48),
        lambda: faces.windows(64, 48, seed=1),
    ),
    "MTCNN R-Net": Subject(
        lambda: faces.pretrained(faces.Refinement),
        lambda: faces.windows(64, 24),
        lambda: faces.windows(64, 24, seed=1),
    ),
    "MTCNN O-Net": Subject(
        lambda: faces.pretrained(faces.Output),
        lambda: faces.windows(64, 48),
        lambda: faces.windows(64, 48, seed=1),
    ),
}


class Outcome(NamedTuple):
    """Results for one network."""

    plans: QATPlan
    conversion: bridge.Conversion
    verification: bridge.Verification
    error: float
    sizes: tuple[int, int]


def run(subject: Subject, folder: Path) -> Outcome:
    """Fold, prepare, calibrate, export, convert and verify one network."""
    torch.manual_seed(0)
    model = subject.make()
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        settle(model, torch.cat([subject.calibration() for _ in range(4)]))
    model.eval()
    x, other = subject.data(), subject.calibration()
    if moves(model, x, other) < LEAST_MOVE:
        raise RuntimeError("the output hardly depends on the input: comparing it proves nothing")
    model = bridge.fold_batch_norm(model)
    plans = plan_qat(model)
    net = bridge.prepare_qat(model)
    bridge.calibrate(net, [subject.calibration()])
    inter = folder / "inter_model.onnx"
    torch.onnx.export(net, (x,), str(inter), dynamo=False)
    done = bridge.convert_qat_model(inter, folder / "net")
    bridge.adopt(net, done)
    proof = bridge.verify(net, done, x)
    with torch.no_grad():
        y, exact = (m(x) for m in (net, model))
    if isinstance(y, tuple):
        y, exact = y[0], exact[0]
    error = float((y - exact).norm() / exact.norm())
    parameters = sum(p.numel() * 4 for p in model.parameters())
    return Outcome(plans, done, proof, error, (parameters, done.deploy.stat().st_size))


def main() -> None:
    """Run the networks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", action="store_true", help="print each network's layers")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    given = parser.parse_args()
    console = Console(width=150)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # the TorchScript exporter warns of its deprecation
    table = Table(
        title="values that differ in any bit: outputs between the two files, outputs between torch "
        "and fake-quant, inputs of all layers",
        caption="first: where torch and ONNX Runtime first round differently; error: relative, to "
        "the float network; bytes: of the deploy model, relative to the float weights",
    )
    for column in ("network", "layers", "proven", "fake-quant / deploy", "torch / fake-quant"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for column in ("codes", "first", "error", "bytes"):
        table.add_column(column, justify="right")
    for name in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(NETWORKS[name], Path(folder))
        if given.layers:
            console.print(outcome.plans)
            console.print(outcome.conversion)
            console.print(outcome.verification)
        table.add_row(name, *_cells(outcome))
    console.print(table)


def _cells(outcome: Outcome) -> list[str]:
    layers, outputs = outcome.verification.layers, outcome.verification.outputs
    pairs = [(output.fake_deploy, output.torch_fake) for output in outputs]
    compared = [sum(p[i].total for p in pairs) for i in range(2)]
    differ = [sum(p[i].count for p in pairs) for i in range(2)]
    codes = [layer.codes_torch_fake for layer in layers if layer.codes_torch_fake is not None]
    return [
        str(len(outcome.conversion.layers)),
        str(sum(layer.proven for layer in outcome.conversion.layers)),
        f"{differ[0]:,} of {compared[0]:,}",
        f"{differ[1]:,} of {compared[1]:,}",
        f"{sum(c.count for c in codes):,} of {sum(c.total for c in codes):,}",
        outcome.verification.first_torch_fake or "-",
        f"{outcome.error:.1%}",
        f"{outcome.sizes[1] / outcome.sizes[0]:.3f}",
    ]


if __name__ == "__main__":
    main()
