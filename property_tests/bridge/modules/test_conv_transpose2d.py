"""ConvTranspose2dQAT: training in eval mode, fake-quant and deploy give the same bits."""

from hypothesis import given

from property_tests.bridge.builders import inter_model
from property_tests.bridge.cases import Case, conv_transpose2d_cases
from property_tests.bridge.depth import share
from property_tests.bridge.equality import (
    assert_fake_equals_ascend,
    assert_fake_equals_deploy,
    assert_same_bits,
)


@given(conv_transpose2d_cases())
def test_torch_equals_fake_quant_equals_deploy(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share(2)
@given(conv_transpose2d_cases(bits=16))
def test_16_bit_inputs_are_exact_too(case: Case) -> None:
    """y_torch = y_fake = y_deploy in every bit, at every optimization level."""
    y, _ = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert_same_bits(case.run(), y, "torch")


@share(4)
@given(conv_transpose2d_cases())
def test_ascend_equals_its_fake_quant_twin(case: Case) -> None:
    """The dialect, evaluated, equals its twin in ONNX Runtime in every bit."""
    assert_fake_equals_ascend(inter_model(case), case.x.numpy())
