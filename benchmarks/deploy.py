"""Speed of deploy models relative to the float32 ONNX model, in one thread.

    python benchmarks/deploy.py [--rounds N] [--processes N] [NETWORK ...]

BatchNorm is folded in all models. Mode "fast" rounds at more points than training did, so its
outputs differ: "error" is the relative error of "exact" and of "fast" against the float model on
random inputs, "same" the share of inputs for which both have the same argmax. Each of several
processes runs all models of a network alternately; printed are the median and the range, over
processes, of the ratios of median CPU times.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FORMS = {"exact": {}, "not adjusted": {"max_ulps": 0}, "fast": {"mode": "fast"}}
"""convert_qat_model's arguments for each deploy model, by its name in the table."""


def _networks() -> dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[int, ...]]]:
    """Return networks, the shape of one input, and the batch sizes."""
    from torch import nn

    from examples.networks import UNet, mobilenet_v2, resnet18, resnet50, volume_network

    def perceptron() -> nn.Module:
        return nn.Sequential(
            *(
                layer
                for _ in range(4)
                for layer in (nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024), nn.ReLU())
            )
        )

    return {
        "MobileNetV2": (mobilenet_v2, (3, 224, 224), (1, 8)),
        "ResNet-18": (resnet18, (3, 224, 224), (1, 8)),
        "ResNet-50": (resnet50, (3, 224, 224), (1, 8)),
        "U-Net": (lambda: UNet(plain=True, width=32), (3, 128, 128), (1, 8)),
        "3-D network": (lambda: volume_network(plain=True), (1, 8, 16, 16), (1, 8)),
        "MLP 1024-4096 x 4": (perceptron, (1024,), (1, 32)),
    }


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Write the float model and the deploy models of a network; return facts about them."""
    import torch
    from torch import nn

    import bridge
    from examples.networks import moves, settle
    from examples.whole_networks import LEAST_MOVE

    logging.disable(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    make, shape, batches = _networks()[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
    model = bridge.fold_batch_norm(settle(model, torch.randn(4, *shape)).eval())
    if moves(model, torch.randn(2, *shape), torch.randn(2, *shape)) < LEAST_MOVE:
        raise RuntimeError(f"{name}: the output hardly depends on the input: nothing to compare")
    net = bridge.prepare_qat(model)
    data, fresh = torch.randn(2, max(batches), *shape)
    bridge.calibrate(net, [data[:2]])
    facts: dict[str, Any] = {}
    vnni = bridge.sums_int8_exactly()
    for batch in batches:
        x = torch.randn(batch, *shape)
        stem = folder / f"{batch}"
        torch.onnx.export(model, (x,), f"{stem}_float.onnx", dynamo=False)
        torch.onnx.export(net, (x,), f"{stem}_inter.onnx", dynamo=False)
        for form, options in FORMS.items():
            started = time.perf_counter()
            if "mode" in options:
                options = options | {"data": data.split(batch)}
            done = bridge.convert_qat_model(
                f"{stem}_inter.onnx", f"{stem}_{form}", vnni=vnni, **options
            )
            seconds = time.perf_counter() - started
            results = [run(path, x.numpy()) for path in (done.fake_quant, done.deploy)]
            kinds = [layer.form for layer in done.layers]
            facts[f"{batch} {form}"] = {
                "forms": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
                "adjusted": sum(
                    int((layer.adjusted.ulps != 0).sum()) for layer in done.layers if layer.adjusted
                ),
                "differ": int((results[0].view(np.int32) != results[1].view(np.int32)).sum()),
                "seconds": seconds,
                "bytes": done.deploy.stat().st_size / Path(f"{stem}_float.onnx").stat().st_size,
            }
        facts[f"{batch} agreement"] = _agreement(stem, [x.numpy() for x in fresh.split(batch)])
    return {"batches": batches, "shape": shape, "vnni": vnni, "facts": facts}


def _agreement(stem: Path, data: list[np.ndarray]) -> dict[str, float]:
    """Compare the outputs of both modes with those of the float model."""
    files = {"float": "float", "exact": "exact_deploy_model", "fast": "fast_deploy_model"}
    y = {}
    for form, file in files.items():
        one = session(stem.with_name(f"{stem.name}_{file}.onnx"))
        y[form] = np.concatenate([one.run(None, {one.get_inputs()[0].name: x})[0] for x in data])
    size = np.linalg.norm(y["float"])
    errors = {form: float(np.linalg.norm(y[form] - y["float"]) / size) for form in y}
    return errors | {"same": float((y["exact"].argmax(1) == y["fast"].argmax(1)).mean())}


def session(path: Path) -> onnxruntime.InferenceSession:
    """Load a model into ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    """Run a model once."""
    one = session(path)
    return one.run(None, {one.get_inputs()[0].name: x})[0]


def measure(folder: Path, batch: int, shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each model; the models run alternately."""
    sessions = {"float": session(folder / f"{batch}_float.onnx")}
    for form in FORMS:
        sessions[form] = session(folder / f"{batch}_{form}_deploy_model.onnx")
    x = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds + 2):
        for name, one in sessions.items():
            started = time.process_time()
            one.run(None, {one.get_inputs()[0].name: x})
            times[name].append(time.process_time() - started)
    return {name: float(np.median(values[2:])) for name, values in times.items()}


def main() -> None:
    """Measure the networks, or, in a child process, one part of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    given = parser.parse_args()
    if given.part:
        what, *rest = json.loads(given.part)
        sys.path.insert(0, str(ROOT))
        if what == "prepare":
            print(json.dumps(prepare(rest[0], Path(rest[1]))))
        else:
            print(json.dumps(measure(Path(rest[0]), rest[1], tuple(rest[2]), rest[3])))
        return
    sys.path.insert(0, str(ROOT))
    names = given.networks or list(_networks())
    table = Table(title="float32 time / deploy time (range over processes)")
    table.add_column("network")
    table.add_column("batch", justify="right")
    table.add_column("float, ms", justify="right")
    for form in FORMS:
        table.add_column(form, justify="right")
    for column in ("fake-quant / deploy", "error, same", "adjusted", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("forms")
    vnni = False
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = _part("prepare", name, folder)
            vnni = made["vnni"]
            for batch in made["batches"]:
                runs = [
                    _part("measure", folder, batch, made["shape"], given.rounds)
                    for _ in range(given.processes)
                ]
                cells = [name, str(batch), *_cells(runs, made["facts"], batch)]
                table.add_row(*cells)
                print(*cells, sep=" | ", file=sys.stderr, flush=True)
    console = Console(width=170)
    console.print(table)
    console.print(f"weights of the integer kernels: {'int8' if vnni else 'uint8, no VNNI here'}")


def _cells(runs: list[dict[str, float]], facts: dict[str, Any], batch: int) -> list[str]:
    cells = [f"{np.median([r['float'] for r in runs]) * 1e3:.1f}"]
    for form in FORMS:
        ratios = sorted(r["float"] / r[form] for r in runs)
        cells.append(f"{np.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
    fact, fast = facts[f"{batch} exact"], facts[f"{batch} fast"]
    agreement = facts[f"{batch} agreement"]
    cells.append(f"{fact['differ']}, fast {fast['differ']} differ")
    cells.append("{exact:.3f}, {fast:.3f}, {same:.0%}".format(**agreement))
    forms = [
        ", ".join(f"{count} {kind}" for kind, count in one["forms"].items()) for one in (fact, fast)
    ]
    return [*cells, str(fact["adjusted"]), f"{fact['bytes']:.3f}", "; fast: ".join(forms)]


def _part(*what: Any) -> Any:
    command = [sys.executable, __file__, "--part", json.dumps(what)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
