"""LinearQAT: training in eval mode, fake-quant and deploy give the same bits."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import linear_cases, randoms
from qatfunc import Clip, operators, resolve_clip
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_ascend, assert_fake_equals_deploy
from tests.support.graphs.builders import Graph, inter_model
from tests.support.modules.case import Case
from tests.support.modules.numbers import Random

_FORMS = ("Gemm", "Gemm transB", "MatMul", "MatMul Transpose")


@given(linear_cases())
def test_torch_equals_fake_quant_equals_deploy(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 2)
@given(linear_cases(bits=16))
def test_16_bit_inputs_are_exact_too(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 4)
@given(linear_cases())
def test_ascend_equals_its_fake_quant_twin(case: Case) -> None:
    """The dialect, evaluated, equals its twin in ONNX Runtime in every bit."""
    assert_fake_equals_ascend(inter_model(case), case.x.numpy())


@share_of_examples(1 / 2)
@given(linear_cases(), st.sampled_from(_FORMS), randoms())
def test_one_scale_a_channel_is_exact_too(case: Case, form: str, random: Random) -> None:
    """In every way a file can say it: y_fake = y_deploy = qatfunc's per-channel linear."""
    x = case.x.reshape(-1, case.x.shape[-1])
    layer = case.layer
    factors = random.uniform(1.0, 4.0, len(layer.weight)).astype(np.float32)
    scale = factors * np.float32(layer._export_constants().scale_w[0])
    y, _ = assert_fake_equals_deploy(_per_channel_model(case, scale, form), x.numpy())
    assert_same_bits(_per_channel_linear(case, scale, x), y, "torch")


def _per_channel_model(case: Case, scale: Any, form: str) -> Any:
    graph, layer = Graph(), case.layer
    constants = layer._export_constants()
    x = graph.pair("x", constants.scale_x, np.int8(constants.zero_point_x))
    weight, zeros = layer.weight.detach().numpy(), np.zeros(len(scale), np.int8)
    turned = form in ("Gemm", "MatMul")
    stored = graph.constant(np.ascontiguousarray(weight.T) if turned else weight, "fc.weight")
    w = graph.pair(stored, scale, zeros, axis=1 if turned else 0)
    bias = [] if layer.bias is None else [graph.constant(layer.bias.detach().numpy(), "fc.bias")]
    if form.startswith("Gemm"):
        return graph.model(graph.op("Gemm", x, w, *bias, transB=0 if turned else 1), 2)
    y = graph.op("MatMul", x, w if turned else graph.op("Transpose", w, perm=[1, 0]))
    return graph.model(graph.op("Add", y, *bias) if bias else y, 2)


@torch.no_grad()
def _per_channel_linear(case: Case, scale: Any, x: Any) -> Any:
    layer, spec = case.layer, case.layer.config.layer
    clip = Clip(layer.acts_clip_max, layer.acts_clip_min)
    previous = Clip(layer.acts_clip_max_pre, layer.acts_clip_min_pre)
    params = {
        "weight": layer.weight,
        "weight_scale": torch.from_numpy(scale),
        "clip": resolve_clip(clip, previous, spec.activation),
    }
    params |= {} if layer.bias is None else {"bias": layer.bias}
    return operators.linear(x, params, spec).numpy()
