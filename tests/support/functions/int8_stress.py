"""Quantized layers of odd shapes, in INT8 wherever a trial allows it, against floats.

    python -m tests.support.functions.int8_stress COUNT SEED

A process of its own, as a kernel may crash. Prints each case before it runs, and then DIFFERENT if
its bits differ; at the end how many of the cases were computed in INT8.
"""

import sys
from typing import Any
from unittest import mock

import numpy as np
import torch

from qatfunc import Clip, LayerSpec, WeightSpec, int8_forward, operators
from qatfunc.fused import int8_sums

SIDES = [1, 2, 3, 5, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 127, 129, 200, 257]
LONG = [1000, 1024, 1025, 3000, 20000]
KNOWN: list[tuple[str, list[int], list[int], dict[str, Any]]] = [
    ("conv2d", [1024, 1, 6, 3], [4, 1, 3, 3], {"stride": (1, 3), "padding": 1}),
    ("conv2d", [1024, 1, 8, 6], [9, 1, 2, 4], {"stride": (1, 3)}),
    (
        "conv2d",
        [64, 4, 8, 1],
        [8, 4, 3, 1],
        {"padding": (1, 2), "stride": (1, 3), "dilation": (1, 2)},
    ),
    ("linear", [128, 1], [20000, 1], {}),
]
"""Shapes for which INT8 kernels were wrong, or crashed, on a CPU with VNNI."""


def draw(random: np.random.Generator) -> tuple[str, list[int], list[int], dict[str, Any]]:
    rows, inputs, outputs = (int(random.choice(SIDES)) for _ in range(3))
    if random.random() < 0.1:
        sides = [min(side, 65) for side in (rows, inputs, outputs)]
        sides[random.integers(3)] = int(random.choice(LONG))
        rows, inputs, outputs = sides
    leading = [rows] if random.random() < 0.7 else [int(random.integers(1, 4)), rows]
    return "linear", [*leading, inputs], [outputs, inputs], {}


def differs(case: tuple[str, list[int], list[int], dict[str, Any]], seed: int) -> bool:
    name, x_shape, weight_shape, options = case
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(x_shape, generator=generator)
    if x.ndim == 2 and seed % 3 == 0:
        x = x.t().contiguous().t()
    weight = torch.randn(weight_shape, generator=generator) * 10.0 ** (seed % 5 - 3)
    ends = [(1.5, -0.5), (2.0, 0.0), (1.0, -1.0)][seed % 3]
    params = {"weight": weight, "clip": Clip(*map(torch.tensor, ends))}
    spec = LayerSpec(weight=WeightSpec(per_channel=seed % 2 == 0))
    if seed % 4 == 0:  # codes at their ends; weights that fit however many there are
        x, params["weight_scale"] = x.sign() * 9, torch.full((1,), float(weight.abs().max()) / 3)
    operator = getattr(operators, name)
    with int8_forward("never"):
        want = operator(x, params, spec, **options)
    with int8_forward("always"):
        calls = [operator(x, params, spec, **options) for _ in range(2)]
    return not all(torch.equal(y.view(torch.int32), want.view(torch.int32)) for y in calls)


def main(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    cases = [*KNOWN, *(draw(random) for _ in range(count))]
    used = 0
    for number, case in enumerate(cases):
        print(number, case, flush=True)
        int8_sums._TRIALS.__init__()  # type: ignore[misc]
        with mock.patch.object(int8_sums, "int8_sums", wraps=int8_sums.int8_sums) as kernel:
            wrong = differs(case, number)
        used += int8_sums._TRIALS.has_passed(_signature(case)) and kernel.called
        if wrong:
            print("DIFFERENT", flush=True)
    print(f"{used} of {len(cases)} in INT8")


def _signature(case: tuple[str, list[int], list[int], dict[str, Any]]) -> Any:
    _, (*leading, _), (outputs, *inputs), _ = case
    rows = int(np.prod(leading))
    return int8_sums.Signature("always", rows, inputs[0], outputs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
