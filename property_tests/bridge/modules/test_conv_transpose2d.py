"""ConvTranspose2dQAT: training in eval mode, fake-quant and deploy give the same bits."""

from hypothesis import given

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import conv_transpose2d_cases
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_ascend, assert_fake_equals_deploy
from tests.support.graphs.builders import inter_model
from tests.support.modules.case import Case


@given(conv_transpose2d_cases())
def test_torch_equals_fake_quant_equals_deploy(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 2)
@given(conv_transpose2d_cases(bits=16))
def test_16_bit_inputs_are_exact_too(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share_of_examples(1 / 4)
@given(conv_transpose2d_cases())
def test_ascend_equals_its_fake_quant_twin(case: Case) -> None:
    """The dialect, evaluated, equals its twin in ONNX Runtime in every bit."""
    assert_fake_equals_ascend(inter_model(case), case.x.numpy())
