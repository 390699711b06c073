"""Equality of every bit between torch, the fake-quant model and the deploy model."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from bridge.export.pipeline import convert_model
from bridge.export.plan.forms import Form, choose_ort_form, ort_candidates
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain
from bridge.export.result.conversion import LayerSummary
from bridge.export.running.runtime import ASCEND_OPERATORS
from bridge.export.targets.ascend.twin import twin_of

Array = np.ndarray

LEVELS = {
    name: getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
}


def assert_same_bits(actual: Array, expected: Array, what: str) -> None:
    """Compare float32 arrays as integers; signs of zero count."""
    assert actual.dtype == expected.dtype == np.float32, what
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    a, b = (np.ascontiguousarray(array).view(np.int32) for array in (actual, expected))
    wrong = np.argwhere(a != b)
    if len(wrong):
        where = tuple(wrong[0])
        raise AssertionError(
            f"{what}: {len(wrong)} of {a.size} values differ, first at {where}: "
            f"{actual[where]!r} is not {expected[where]!r}"
        )


def run_at(model: bytes, x: Array, level: str) -> Array:
    """Run a model in ONNX Runtime at an optimization level, for its first output."""
    return outputs_at(model, x, level)[0]


def outputs_at(model: bytes, x: Array, level: str) -> list[Array]:
    """Run a model in ONNX Runtime at an optimization level."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options)
    return session.run(None, {session.get_inputs()[0].name: x})


def forced(name: str) -> Callable[[QuantizedLayer, Chain | None], Form]:
    """Choose one form for every layer that has it, the usual ones for the others."""

    def choose(layer: QuantizedLayer, chain: Chain | None) -> Form:
        candidates = {form.name: form for form in ort_candidates(layer, chain)}
        return candidates.get(name) or choose_ort_form(layer, chain).form

    return choose


def assert_fake_equals_deploy(
    source: ir.Model, x: Array, *, form: str | None = None, data: list[Array] | None = None
) -> tuple[Array, list[LayerSummary]]:
    """Convert for ONNX Runtime and compare at every level; return the values and the layers.

    With data the mode is "fast".
    """
    choose = None if form is None else forced(form)
    options = {} if data is None else {"mode": "fast", "data": data}
    fake, deploy, layers, floats, _ = convert_model(source, choose=choose, **options)
    assert not floats
    models = [ir.to_proto(model).SerializeToString() for model in (fake, deploy)]
    results = {level: run_at(models[0], x, level) for level in LEVELS}
    expected = results["DISABLE_ALL"]
    for level, result in results.items():
        assert_same_bits(result, expected, f"fake-quant at {level}")
        assert_same_bits(run_at(models[1], x, level), expected, f"deploy at {level}")
    return expected, layers


def assert_fake_equals_ascend(source: ir.Model, x: Array) -> None:
    """Convert for Ascend; compare the dialect, evaluated, with fake-quant and its runnable twin."""
    fake, deploy, _, floats, _ = convert_model(source, target="ascend")
    assert not floats
    evaluator = ReferenceEvaluator(ir.to_proto(deploy), new_ops=ASCEND_OPERATORS)
    expected = evaluator.run(None, {"x": x})[0]
    for name, model in {"fake-quant": fake, "twin": twin_of(deploy)}.items():
        proto = ir.to_proto(model).SerializeToString()
        for level in LEVELS:
            assert_same_bits(run_at(proto, x, level), expected, f"{name} at {level}")
