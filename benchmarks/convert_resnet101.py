"""Time and memory of the conversion of a ResNet-101 for 224 x 224 images.

    python benchmarks/convert_resnet101.py

Export and conversion run in separate processes: the peak memory is that of the conversion, with
its imports.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Export and convert, each in a process of its own, and print time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inter_model.onnx")
        started = time.perf_counter()
        _run("export", path)
        exported = time.perf_counter()
        _run("convert", path)
        converted = time.perf_counter()
        print(f"inter model         {path.stat().st_size / 1e6:8.1f} MB")
        print(f"export, process     {exported - started:8.1f} s")
        print(f"conversion, process {converted - exported:8.1f} s")


def export(path: Path) -> None:
    """Calibrate and export the network."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from examples.networks import resnet101
    from tests.support.exporters import export_network
    from tests.support.networks import randomized

    model, x = randomized(lambda: resnet101(classes=1000), 1, 3, 224, 224)
    with torch.no_grad():
        export_network(model, x, path, dynamo=False)


def convert(path: Path) -> None:
    """Convert, and print seconds and the process's peak memory."""
    from bridge import convert_qat_model

    started = time.perf_counter()
    conversion = convert_qat_model(path, path.with_name("resnet101"))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"layers              {len(conversion.layers):8}")
    print(f"convert_qat_model   {seconds:8.1f} s")
    print(f"peak memory         {peak / 1e6:8.0f} MB")


def _run(step: str, path: Path) -> None:
    subprocess.run([sys.executable, __file__, step, str(path)], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"export": export, "convert": convert}[sys.argv[1]](Path(sys.argv[2]))
