"""Laws of forwards in INT8: they have the bits of those in floats."""

import pytest
from hypothesis import given

from property_tests.strategies import QuantizedLayer, conv_layers, linear_layers
from qatfunc import int8_forward, int8_sums, operators
from tests.qatfunc.bits import same_bits


@given(linear_layers())
def test_linear_has_the_bits_of_floats(layer: QuantizedLayer):
    """Forced or switched off, the output is the same."""
    x, params, spec, options = layer
    with int8_forward("always"):
        got = operators.linear(x, params, spec, **options)
    with int8_forward("never"):
        assert same_bits(got, operators.linear(x, params, spec, **options))


@pytest.mark.skipif(
    not int8_sums._is_exact("convolution"), reason="this CPU saturates sums of two products"
)
@given(conv_layers(axes=2))
def test_conv2d_has_the_bits_of_floats(layer: QuantizedLayer):
    """The same; where sums saturate, both ways would be the one in floats."""
    x, params, spec, options = layer
    with int8_forward("always"):
        got = operators.conv2d(x, params, spec, **options)
    with int8_forward("never"):
        assert same_bits(got, operators.conv2d(x, params, spec, **options))
