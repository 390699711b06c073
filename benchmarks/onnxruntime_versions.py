"""Which versions of ONNX Runtime run the converted models, and whether with the same bits.

    python benchmarks/onnxruntime_versions.py [--markdown] [VERSION ...]

Creates a virtual environment for each version, in a temporary folder, and runs in it the fake-quant
and deploy models of every form at the four optimization levels. For each file and version it prints
"=" if the outputs equal those of the fake-quant model in the installed version, otherwise how many
values differ, or the error with which the version refuses the file. --markdown prints the table of
the docs: a row for each network, for all its files.

Files with `vnni` are compared with the same file in the installed version: on processors without
VNNI their accumulators saturate. pip installs the environments; old versions need NumPy 1.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VERSIONS = ("1.17.3", "1.18.1", "1.20.1", "1.23.2", "1.26.0")
_LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
_LAST_WITH_NUMPY_1 = (1, 18)
_RUN_HERE = "--run"
_REFUSED = "refused: "


def main(versions: tuple[str, ...] = VERSIONS, *, markdown: bool = False) -> int:
    """Write the files, run them in every version, print the table; return 1 if a value differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = list(write_files(folder))
        here = run_folder(folder)
        found = {version: in_version(version, folder) for version in versions}
        words = {
            version: [_compare(results, here, file, expected) for file, expected in files]
            for version, results in ({onnxruntime.__version__: here} | found).items()
        }
    if markdown:
        _print_page([file for file, _ in files], words)
    else:
        _print_files([file for file, _ in files], words)
    unequal = (word for column in words.values() for word in column if word != "=")
    return int(any(_REFUSED not in word for word in unequal))


def _print_page(files: list[str], words: dict[str, list[str]]) -> None:
    """Print a row for each network: "=", "refused", or how many of its files differ."""
    print(f"| | {' | '.join(words)} |")
    print("|---" * (len(words) + 1) + "|")
    networks = sorted(_networks(), key=len, reverse=True)  # "linear, rank 3" before "linear"
    owner = [next(name for name in networks if file.startswith(f"{name}, ")) for file in files]
    for network in _networks():
        rows = [i for i, name in enumerate(owner) if name == network]
        cells = []
        for column in words.values():
            unequal = [column[i] for i in rows if column[i] != "="]
            refused = sum(_REFUSED in word for word in unequal)
            parts = [f"{refused} of {len(rows)} files refused"] if refused else []
            wrong = len(unequal) - refused
            parts += [f"{wrong} of {len(rows)} files differ"] if wrong else []
            cells.append("refused" if refused == len(rows) else ", ".join(parts) or "=")
        print(f"| {network}: {len(rows)} files | {' | '.join(cells)} |")


def _print_files(files: list[str], words: dict[str, list[str]]) -> None:
    print(f"{'':60}" + "".join(f"{version:>9}" for version in words))
    notes: dict[str, int] = {}
    for i, file in enumerate(files):
        cells = []
        for column in words.values():
            word = column[i]
            cells.append(word if len(word) < 9 else f"[{notes.setdefault(word, len(notes) + 1)}]")
        print(f"{file:60}" + "".join(f"{cell:>9}" for cell in cells))
    for note, number in notes.items():
        print(f"[{number}] {note}")


def write_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Convert every network in every form.

    Args:
        folder: where NAME.onnx and an input, NAME.npy, are written.
    Returns:
        pairs: the name of a file, and of the file whose outputs it must equal.
    """
    import onnx_ir as ir
    import torch

    from bridge.export.normalize.model import read_model
    from bridge.export.pipeline import convert_model
    from bridge.export.targets.ascend.twin import twin_of
    from tests.support.exporters import export_network

    for name, (model, shape, forms) in _networks().items():
        torch.manual_seed(0)
        x = torch.randn(shape)
        exported = _prepared(model, x, wide="16" in name)
        for exporter in ("torchscript", "default") if name == "conv" else ("torchscript",):
            path = folder / "inter_model"
            export_network(exported, x, path, dynamo=exporter == "default")
            for form, options in forms.items():
                given = options | ({"mode": "fast", "data": [x.numpy()]} if form == "fast" else {})
                case = f"{name}, {form}" + (", default exporter" if exporter == "default" else "")
                fake, deploy, *_ = convert_model(read_model(path), **given)
                made = {"fake-quant": fake, "deploy": deploy}
                if options.get("target") == "ascend":
                    made["deploy"] = twin_of(deploy)
                for kind, written in made.items():
                    ir.save(written, folder / f"{case}: {kind}.onnx")
                    np.save(folder / f"{case}: {kind}.npy", x.numpy())
                    same = kind == "deploy" and options.get("vnni")
                    yield f"{case}: {kind}", f"{case}: {'deploy' if same else 'fake-quant'}"
            path.unlink()


def run_folder(folder: Path) -> dict[str, Any]:
    """Run every file of a folder in the installed version.

    Args:
        folder: with NAME.onnx and NAME.npy.
    Returns:
        by name, for each optimization level the output's bits as hexadecimal text, or the error.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.onnx")):
        x, bits = np.load(path.with_suffix(".npy")), []
        for level in _LEVELS:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(
                onnxruntime.GraphOptimizationLevel, f"ORT_{level}"
            )
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            try:
                session = onnxruntime.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
                y = session.run(None, {session.get_inputs()[0].name: x})[0]
                bits.append(np.ascontiguousarray(y).view(np.uint32).tobytes().hex())
            except Exception as error:
                # Without the file name and the location in ONNX Runtime's source.
                bits.append(_REFUSED + str(error).strip().rpartition(") ")[2])
        found[path.stem] = bits
    return found


def in_version(version: str, folder: Path) -> dict[str, Any]:
    """Run every file of a folder in another version, in an environment of its own.

    Args:
        version: of onnxruntime.
        folder: with NAME.onnx and NAME.npy.
    Returns:
        as run_folder returns.
    """
    with tempfile.TemporaryDirectory() as environment:
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python = str(Path(environment, "bin", "python"))
        old = tuple(map(int, version.split(".")[:2])) <= _LAST_WITH_NUMPY_1
        wanted = [f"onnxruntime=={version}", "numpy<2" if old else "numpy"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        done = subprocess.run(
            [python, __file__, _RUN_HERE, str(folder)], check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout)


def _compare(found: dict[str, Any], here: dict[str, Any], file: str, expected: str) -> str:
    """Return a file's result for the table."""
    refused = [one for one in found[file] if one.startswith(_REFUSED)]
    if refused:
        return f"{len(refused)} levels of 4 {refused[0]}"
    wanted = np.frombuffer(bytes.fromhex(here[expected][0]), np.uint32)
    results = [np.frombuffer(bytes.fromhex(bits), np.uint32) for bits in found[file]]
    wrong = max(int((y != wanted).sum()) for y in results)
    return f"{wrong}/{wanted.size}" if wrong else "="


def _networks() -> dict[str, tuple[Any, tuple[int, ...], dict[str, dict[str, Any]]]]:
    """Networks by name: the float model, its input shape, and options of the conversion by form."""
    from torch import nn

    from bridge.export.plan.costs import FLOAT, FORMS, INTEGER, QLINEAR, QLINEAR_2D
    from bridge.export.plan.forms import ort_candidates

    def chosen(form: str) -> Callable[..., Any]:
        def choose(layer: Any, chain: Any) -> Any:
            candidates = {one.name: one for one in ort_candidates(layer, chain)}
            return candidates.get(form) or next(iter(candidates.values()))

        return choose

    forms: dict[str, dict[str, Any]] = {form: {"choose": chosen(form)} for form in FORMS}
    vnni = {f"{form}, vnni": {"choose": chosen(form), "vnni": True} for form in (QLINEAR, INTEGER)}
    in_2d = {QLINEAR_2D: {"choose": chosen(QLINEAR_2D)}}
    ascend = {"ascend twin": {"target": "ascend"}}
    plain: dict[str, dict[str, Any]] = {"plain": {}}
    integer = {form: forms[form] for form in (INTEGER, FLOAT)}
    conv = nn.Sequential(
        *(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6()),
        *(nn.MaxPool2d(2), nn.Conv2d(16, 24, 1, stride=2), nn.ReLU(), nn.Conv2d(24, 8, 3)),
    )
    norm = nn.Sequential(
        *(nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8)),
    )
    mlp = nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 12))
    volume = nn.Sequential(nn.Conv3d(4, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 2))
    line = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 2))
    up = nn.Sequential(
        *(nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1), nn.ReLU()),
        *(
            nn.ConvTranspose2d(8, 6, 3, dilation=2, groups=2, padding=1, output_padding=1),
            nn.ReLU(),
        ),
        nn.Conv2d(6, 4, 3),
    )
    line_up = nn.Sequential(
        *(nn.ConvTranspose1d(4, 8, 4, stride=2, padding=1), nn.ReLU()),
        nn.ConvTranspose1d(8, 6, 3, groups=2),
    )
    image = (2, 4, 18, 18)
    return {
        "conv": (conv, image, forms | vnni | ascend),
        "BatchNorm": (norm, image, plain | {"folded": {"fold_batch_norm": True}}),
        "linear": (mlp, (5, 40), plain | {"vnni": {"vnni": True}} | ascend),
        "linear, rank 3": (mlp, (5, 3, 40), plain | ascend),
        "conv 3d": (volume, (2, 4, 6, 7, 8), forms | in_2d | ascend),
        "conv 1d": (line, (2, 4, 30), forms | ascend),
        "transposed": (up, (2, 4, 7, 7), forms | ascend),
        "transposed 1d": (line_up, (2, 4, 9), forms | ascend),
        "sums": (_sums(), image, {"exact": forms[QLINEAR], "fast": forms[QLINEAR]}),
        "product": (_product(), (3, 6, 20), plain | ascend),
        "conv, 16 bits": (conv, image, integer),
        "linear, 16 bits": (mlp, (5, 40), plain),
        "transposed, 16 bits": (up, (2, 4, 7, 7), integer),
    }


def _sums() -> Any:
    """Build a network with the Add, Concat and LeakyRelu that mode "fast" computes in integers."""
    import torch
    from torch import Tensor, nn

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 8, 3, padding=1)
            self.third = nn.Conv2d(8, 8, 1)
            self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
            self.last = nn.Conv2d(12, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            x = nn.functional.leaky_relu(self.second(x) + x, 0.1)
            x = self.up((self.third(x) + x).relu())
            return self.last(torch.cat([x, x.relu()], 1))

    return Sums()


def _product() -> Any:
    """Build a network that multiplies two activations."""
    from torch import Tensor, nn

    from bridge import MatMulQAT

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.multiply = MatMulQAT()

        def forward(self, x: Tensor) -> Tensor:
            return self.multiply(x, x.transpose(1, 2))

    return Product()


def _prepared(model: Any, x: Any, *, wide: bool) -> Any:
    from bridge import calibrate, prepare_qat

    data = {"dst_type": "INT16" if wide else "INT8"}
    prepared = prepare_qat(model, {"retrain_data_config": data}).eval()
    calibrate(prepared, [x])
    return prepared


if __name__ == "__main__":
    if sys.argv[1:2] == [_RUN_HERE]:
        print(json.dumps(run_folder(Path(sys.argv[2]))))
    else:
        given = [argument for argument in sys.argv[1:] if argument != "--markdown"]
        sys.exit(main(tuple(given) or VERSIONS, markdown="--markdown" in sys.argv))
