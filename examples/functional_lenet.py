"""LeNet as a pure function: a training step with torch.func, and an ensemble trained by vmap.

python -m examples.functional_lenet
"""

import time
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import bridge
from examples.lenet_mnist import CONFIG, digits
from examples.networks import lenet
from qatfunc.model import Model

BATCH = 50
LEARNING_RATE = 0.02
MOMENTUM = 0.9
MEMBERS = 4
STEPS = 80


def sgd(params: Any, velocity: Any, gradients: Any) -> tuple[Any, Any]:
    """Return parameters and velocity after a step of gradient descent with momentum."""
    velocity = pytree.tree_map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
    return pytree.tree_map(lambda p, v: p - LEARNING_RATE * v, params, velocity), velocity


def prepared() -> nn.Module:
    """Build a LeNet with ReLUs and replace its layers by QAT layers."""
    return bridge.prepare_qat(lenet(plain=True), CONFIG, inplace=True)


def calibrated(seed: int, images: Tensor) -> tuple[Model, Any, Any]:
    """Build a LeNet from a seed and calibrate it on ten batches."""
    torch.manual_seed(seed)
    net = prepared()
    model = bridge.functionalize(net.train())
    params, state = model.init()
    for batch in images.split(BATCH)[:10]:
        state = model.calibrate(params, state, batch)
    return model, *model.finish(params, state)


def main() -> None:
    """Train four networks one after the other, then all at once by vmap, and compare."""
    console = Console(width=110)
    images, labels, test_images, test_labels = digits()
    members = [calibrated(seed, images) for seed in range(MEMBERS)]
    model = members[0][0]

    def loss(params: Any, state: Any, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model.apply(params, state, x), y)

    step = torch.func.grad_and_value(loss)
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))[:STEPS]

    def train(gradient: Any, params: Any, state: Any) -> tuple[list[Any], float]:
        velocity = pytree.tree_map(torch.zeros_like, params)
        history, started = [], time.perf_counter()
        for x, y in batches:
            gradients, _ = gradient(params, state, x, y)
            params, velocity = sgd(params, velocity, gradients)
            history.append(params)
        return history, time.perf_counter() - started

    alone = [train(step, params, state) for _, params, state in members]
    stacked = [
        pytree.tree_map(lambda *t: torch.stack(t), *trees)
        for trees in list(zip(*members, strict=True))[1:]
    ]
    together, seconds = train(torch.vmap(step, in_dims=(0, 0, None, None)), *stacked)

    def apart(i: int) -> float:
        """Return the largest difference relative to the parameter's largest magnitude."""
        return max(
            float((together[i][name][member] - value).abs().max() / value.abs().max())
            for member, (history, _) in enumerate(alone)
            for name, value in history[i].items()
        )

    outputs = torch.vmap(model.apply, in_dims=(0, 0, None))(together[-1], stacked[1], test_images)
    console.print(f"{MEMBERS} networks, {STEPS} steps of {BATCH} digits, seconds:")
    console.print(f"  one by one {sum(s for _, s in alone):.1f}, all at once {seconds:.1f}")
    # A difference in the last bit can change one rounded value by a whole step of the grid:
    # differences grow with the number of steps.
    differences = ", ".join(f"{apart(i):.0e} after {i + 1}" for i in (0, 4, 19, STEPS - 1))
    console.print(f"  largest relative difference of a parameter: {differences}")
    accuracy = (outputs.mean(0).argmax(1) == test_labels).float().mean()
    console.print(f"  accuracy of the ensemble after {STEPS} steps {accuracy:.1%}")
    net = bridge.functional.to_module(prepared(), alone[0][0][-1], members[0][2])
    console.print(bridge.sensitivity(net, test_images[:200]))


if __name__ == "__main__":
    main()
