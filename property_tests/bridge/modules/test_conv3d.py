"""Conv3dQAT: training in eval mode, fake-quant and deploy give the same bits."""

import numpy as np
import pytest
from hypothesis import event, given

from bridge.export.plan.costs import FLOAT, INTEGER, QLINEAR, QLINEAR_2D
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import conv3d_cases
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_ascend, assert_fake_equals_deploy
from tests.support.graphs.builders import Graph, add_layer, inter_model
from tests.support.modules.case import Case


@given(conv3d_cases())
def test_torch_equals_fake_quant_equals_deploy(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 2)
@given(conv3d_cases(bits=16))
def test_16_bit_inputs_are_exact_too(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 4)
@given(conv3d_cases())
def test_ascend_equals_its_fake_quant_twin(case: Case) -> None:
    """The dialect, evaluated, equals its twin in ONNX Runtime in every bit."""
    assert_fake_equals_ascend(inter_model(case), case.x.numpy())


@pytest.mark.parametrize("form", [QLINEAR_2D, QLINEAR, INTEGER, FLOAT])
@share_of_examples(1 / 8)
@given(conv3d_cases())
def test_codes_are_those_of_fake_quant_in_every_form(form: str, case: Case) -> None:
    """y_fake = y_deploy in every bit, at every optimization level, with a quantizer behind."""
    graph = Graph()
    reach = float(np.abs(case.run()).max())
    y = graph.pair(add_layer(graph, case, "x", "layer"), reach / 100 or 1.0, np.int8(-9))
    source = graph.model(graph.op("Relu", y), case.x.ndim)
    _, (layer,) = assert_fake_equals_deploy(source, case.x.numpy(), form=form)
    event(layer.form)
