"""LeNet on MNIST digits trained by several processes; rank 0 exports, converts and verifies.

    torchrun --standalone --nproc-per-node 2 -m examples.distributed_lenet [OUTPUT_FOLDER]

Runs on CPUs (gloo); each process uses one thread unless OMP_NUM_THREADS is set.
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bridge
from examples.lenet_mnist import CONFIG, digits
from examples.networks import lenet

BATCH = 50
LEARNING_RATE = 2e-3
EPOCHS = 2


def train(net: nn.Module, images: Tensor, labels: Tensor, *, epochs: int) -> None:
    """Calibrate and train; every rank takes its share of each global batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    bridge.calibrate(net, images[rank::ranks].split(BATCH // ranks))
    model = DistributedDataParallel(net.train())
    groups = bridge.optim.parameter_groups(net, ranges={"lr": LEARNING_RATE / 4})
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            mine = batch[rank::ranks]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
            optimizer.step()
    net.eval()


def prove(net: nn.Module, images: Tensor, folder: Path, console: Console) -> None:
    """Export, convert, and verify that the files' outputs equal the trained model's."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    # torch's exporter warns of its own code.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    folder.mkdir(parents=True, exist_ok=True)
    inter = folder / "inter_model.onnx"
    torch.onnx.export(net, (images,), str(inter), verbose=False)
    files = bridge.convert_qat_model(inter, folder / "lenet")
    bridge.adopt(net, files)
    proof = bridge.verify(net, files, images)
    console.print(proof)
    if not proof.exact:
        raise RuntimeError("the files do not compute what the trained model computes")


def main() -> None:
    """Run one process of the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--digits", type=int, default=4000, help="to train on, at most 4,000")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    started, console = time.perf_counter(), Console(width=110, quiet=dist.get_rank() > 0)
    images, labels, test_images, test_labels = digits()
    torch.manual_seed(0)
    net = bridge.prepare_qat(lenet(plain=True), CONFIG, inplace=True)
    train(net, images[: options.digits], labels[: options.digits], epochs=options.epochs)
    if dist.get_rank() == 0:
        prove(net, test_images, options.folder, console)
        with torch.no_grad():
            accuracy = (net(test_images).argmax(1) == test_labels).float().mean()
        console.print(
            f"{dist.get_world_size()} processes, {accuracy:.1%} of {len(test_labels):,} other "
            f"digits, exact; {time.perf_counter() - started:.0f} seconds"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
