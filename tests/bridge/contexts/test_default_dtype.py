"""torch.set_default_dtype changes no state and no bit of what quantized layers compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bridge import MatMulQAT, calibrate, functionalize, prepare_qat
from bridge.sensitivities import sensitivity
from tests.support.bits import same_bits, same_state
from tests.support.exporters import EXPORTERS, export
from tests.support.modules.layers import KINDS, LEARNED, NAMES, config, state

RECIPROCAL = LEARNED | {"s_rec_flag": True}
DTYPES = [torch.bfloat16, torch.float64]
CONFIGS: dict[str, dict[str, Any]] = {
    "default": config(),
    "int16": config({"dst_type": "INT16", "batch_num": 2}, LEARNED),
    "fixed": config({"fixed_min": True, "asymmetric": False}, RECIPROCAL),
    "given": config({"clip_max": 2.0}, {"channel_wise": False}),
}


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float32)


def life(name: str, how: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Module, list[Tensor]]:
    """Build a layer, calibrate it, train two steps and evaluate it, under a default dtype."""
    torch.manual_seed(0)
    x = [randn(*KINDS[name].x) for _ in range(4)]
    model = nn.Sequential(KINDS[name].float_layer(dtype=torch.float32))
    results = []
    with default(dtype):
        model = prepare_qat(model, how)
        results.append(model(x[0]))
        calibrate(model, x)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for batch in x[1:3]:
            optimizer.zero_grad()
            results.append(model.train()(batch))
            results[-1].square().mean().backward()
            optimizer.step()
        results += [p.grad for p in model.parameters() if p.grad is not None]
        results.append(model.eval()(x[3]))
    return model, results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, "int16") for name in NAMES), *(("conv2d", how) for how in CONFIGS if how != "int16")],
)
def test_a_layer_lives_as_under_float32(name, how, dtype):
    model, found = life(name, CONFIGS[how], dtype)
    expected, wanted = life(name, CONFIGS[how], torch.float32)
    assert [x.dtype for x in found] == [torch.float32] * len(found)
    assert all(map(same_bits, found, wanted))
    with default(dtype):
        found_state = state(model)
    assert same_state(found_state, state(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [50, 70000], ids=["sorted values", "bins"])
def test_a_product_calibrates_as_under_float32(size, dtype):
    torch.manual_seed(0)
    x, y = randn(size // 10, 10), randn(10, 7)
    states = []
    for chosen in (dtype, torch.float32):
        with default(chosen):
            layer = MatMulQAT(config=config({"batch_num": 2}))
            layer(x, y)
            half = state(layer)
            fresh = MatMulQAT(config=config({"batch_num": 2}))
            fresh.load_state_dict(half)
            fresh(2 * x, y)
            states.append((half, state(fresh)))
    assert all(same_state(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_over_a_model(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(KINDS["conv2d"].float_layer(), nn.ReLU())
    x, results = randn(*KINDS["conv2d"].x), []
    for chosen in (dtype, torch.float32):
        with default(chosen):
            pure = functionalize(prepare_qat(model, config(None, LEARNED)))
            params, seen = pure.init()
            params, seen = pure.finish(params, pure.calibrate(params, seen, x))
            results.append({**params, **seen.buffers, "y": pure.apply(params, seen, x)})
    assert same_state(*({n: t.detach() for n, t in r.items()} for r in results))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sensitivity_is_the_same(dtype):
    torch.manual_seed(0)
    model, x = prepare_qat(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))), randn(8, 4)
    calibrate(model, [x])
    model.eval()
    with default(dtype):
        found = sensitivity(model, x)
    assert found == sensitivity(model, x)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_export_has_the_same_constants(exporter, tmp_path):
    model = prepare_qat(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), config(None, LEARNED))
    x = randn(2, 2, 5, 5)
    calibrate(model, [x])
    paths = []
    for dtype in (torch.bfloat16, torch.float32):
        with default(dtype):
            path = tmp_path / f"{dtype}.onnx"
            paths.append(export(model.eval(), (x,), path, exporter))
    assert paths[0].read_bytes() == paths[1].read_bytes()
