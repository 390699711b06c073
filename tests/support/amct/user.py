"""What both scripts leave to their user: training, and running the fake-quant model."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import bridge
from bridge.export.running.runtime import run_model

Batches = Iterable[tuple[Tensor, Tensor]]


def fit(model: nn.Module, batches: Batches, rate: float) -> None:
    """Train for one pass over the batches, then leave the model in eval mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    model.train()
    for x, label in batches:
        loss = nn.functional.cross_entropy(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def run_and_report(model: nn.Module, path: str, x: Tensor) -> None:
    """Run a fake-quant model and its deploy twin, and write what came of it to report.json."""
    (fake,) = run_model(Path(path), [x.numpy()]).values()
    deploy_path = path.replace("fake_quant", "deploy")
    (deploy,) = run_model(Path(deploy_path), [x.numpy()]).values()
    with torch.no_grad():
        expected = model(x).numpy()
    layers = [module for module in model.modules() if isinstance(module, bridge.Conv2dQAT)]
    report = {
        "fake_quant": path,
        "unlike_deploy": int((fake.view(np.int32) != deploy.view(np.int32)).sum()),
        "largest_difference_from_torch": float(np.abs(fake - expected).max()),
        "largest": float(np.abs(expected).max()),
        "finite": bool(np.isfinite(fake).all()),
        "convolutions": len(layers),
        "calibrated": all(layer.calibrated for layer in layers),
    }
    Path("report.json").write_text(json.dumps(report))
