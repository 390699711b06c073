"""Run one network of the zoo from prepare_qat to verify, and print the outcome.

    python -m benchmarks.zoo.one PACKAGE NAME

The last line printed is the outcome as JSON.
"""

import contextlib
import copy
import dataclasses
import io
import json
import logging
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import bridge
from benchmarks.zoo.networks import SOURCES, Subject

EXPORTERS = {"default": True, "TorchScript": False}
"""The argument `dynamo` of torch.onnx.export, by exporter."""


@dataclass(kw_only=True, slots=True)
class Exported:
    """The outcome of one exporter.

    Args:
        share: share of the multiply-accumulates in 8 bits, None if not known.
        layers: number of quantized layers in the deploy model.
        fake_deploy: number of output values that differ in any bit between the two files.
        torch_fake: number of output values that differ in any bit between torch and fake-quant.
        codes: number of quantized layer inputs that differ between torch and fake-quant, and of
            all that were compared.
        outputs: number of output values compared.
        left: operators left in float, with reasons.
        error: the error that ended the run, "" if there was none.
        float_fails: whether this exporter fails on the float network, too.
    """

    share: float | None = None
    layers: int = 0
    fake_deploy: int = 0
    torch_fake: int = 0
    codes: tuple[int, int] = (0, 0)
    outputs: int = 0
    left: tuple[str, ...] = ()
    error: str = ""
    float_fails: bool = False


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The outcome of one network.

    Args:
        planned: number of layers that are quantized, and of all in the plan.
        unsupported: number of layers left in float, by reason.
        exports: outcomes by exporter.
        seconds: duration of the whole run.
        error: the error that ended the run before any export, "" if there was none.
    """

    planned: tuple[int, int] = (0, 0)
    unsupported: dict[str, int] = field(default_factory=dict)
    exports: dict[str, Exported] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


def run(subject: Subject) -> Outcome:
    """Prepare, calibrate, train two steps, export, convert, adopt and verify."""
    outcome, started = Outcome(), time.perf_counter()
    torch.manual_seed(0)
    try:
        model = subject.make().eval()
        net, batches = _train(model, subject, outcome)
    except Exception as error:  # its row in the table shows the error
        outcome.error = _first_line(error)
    else:
        for name in EXPORTERS:
            outcome.exports[name] = _export(net, model, batches, name)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _train(
    model: nn.Module, subject: Subject, outcome: Outcome
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    plans = bridge.plan_qat(model)
    quantized = [plan for plan in plans if plan.action == "quantized"]
    outcome.planned = len(quantized), len(plans)
    for plan in plans:
        if plan.action != "quantized":
            key = f"{plan.kind}: {plan.reason}"
            outcome.unsupported[key] = outcome.unsupported.get(key, 0) + 1
    net = bridge.prepare_qat(model)
    bridge.calibrate(net, [subject.draw()])
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        # In eval mode: in training mode BatchNorm refuses a single value per channel.
        first = _tensors(net(*subject.draw()))[0]
        first.square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return net.eval(), subject.draw()


def _tensors(y: object) -> list[Tensor]:
    if isinstance(y, Tensor):
        return [y]
    items = y.values() if isinstance(y, dict) else y
    return [tensor for item in items for tensor in _tensors(item)]  # type: ignore[attr-defined]


def _export(net: nn.Module, model: nn.Module, x: tuple[Tensor, ...], exporter: str) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        inter = Path(folder, "inter_model.onnx")
        try:
            torch.onnx.export(net, x, str(inter), dynamo=EXPORTERS[exporter])
        except Exception as error:  # its row in the table shows the error
            return Exported(error=_first_line(error), float_fails=_float_fails(model, x, exporter))
        try:
            return _prove(net, x, inter)
        except Exception as error:  # its row in the table shows the error
            traceback.print_exc()
            return Exported(error=_first_line(error))


def _float_fails(model: nn.Module, x: tuple[Tensor, ...], exporter: str) -> bool:
    try:
        torch.onnx.export(copy.deepcopy(model), x, io.BytesIO(), dynamo=EXPORTERS[exporter])
    except Exception:
        return True
    return False


def _prove(net: nn.Module, x: tuple[Tensor, ...], inter: Path) -> Exported:
    done = bridge.convert_qat_model(inter, inter.with_name("net"))
    bridge.adopt(net, done)
    proof = bridge.verify(net, inter, done.fake_quant, done.deploy, x)
    codes = [one.codes_torch_fake for one in proof.layers if one.codes_torch_fake is not None]
    return Exported(
        share=bridge.explain(done).int8_share,
        layers=len(done.layers),
        fake_deploy=sum(output.fake_deploy.count for output in proof.outputs),
        torch_fake=sum(output.torch_fake.count for output in proof.outputs),
        codes=(sum(c.count for c in codes), sum(c.total for c in codes)),
        outputs=sum(output.fake_deploy.total for output in proof.outputs),
        left=tuple(f"{one.name}: {one.op}: {one.reason}" for one in done.left_in_float),
    )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def main() -> None:
    """Run the network that the command line names."""
    package, name = sys.argv[1:]
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        outcome = run(SOURCES[package][name])
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()
