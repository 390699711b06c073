"""Laws of the operators: the same bits as integer arithmetic, whatever the options."""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.operators import (
    conv_layers,
    conv_transpose_layers,
    linear_layers,
    products,
)
from property_tests.strategies.tensors import permutations
from qatfunc import Clip, operators
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import integer_reference
from tests.support.functions.operands import Product, QuantizedLayer

Operator = Callable[..., Tensor]
HALF = share_of_examples(0.5)


def assert_equals_integers(layer: QuantizedLayer, operator: Operator, reference: Operator) -> None:
    y = operator(*layer[:3], **layer.options)
    assert same_bits(y, reference(*layer[:3], **layer.options))
    assert not has_negative_zero(y)


@given(linear_layers())
def test_linear_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(layer, operators.linear, integer_reference.linear)


@HALF
@given(conv_layers(axes=1))
def test_conv1d_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(layer, operators.conv1d, integer_reference.convolution)


@given(conv_layers(axes=2))
def test_conv2d_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(layer, operators.conv2d, integer_reference.convolution)


@given(conv_layers(axes=3))
def test_conv3d_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(layer, operators.conv3d, integer_reference.convolution)


@HALF
@given(conv_transpose_layers(axes=1))
def test_conv_transpose1d_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(
        layer, operators.conv_transpose1d, integer_reference.transposed_convolution
    )


@given(conv_transpose_layers(axes=2))
def test_conv_transpose2d_equals_integers(layer: QuantizedLayer):
    """It is float32(integer sum + rounded bias) * scale, in every bit."""
    assert_equals_integers(
        layer, operators.conv_transpose2d, integer_reference.transposed_convolution
    )


@given(products())
def test_matmul_equals_integers(case: Product):
    """It is float32(integer sum) * scales, in every bit."""
    a, b, params, spec = case
    y = operators.matmul(a, b, params, spec)
    assert same_bits(y, integer_reference.matmul(a, b, list(params.values()), spec))
    assert not has_negative_zero(y)


@HALF
@given(conv_layers(axes=2))
def test_samples_do_not_see_each_other(layer: QuantizedLayer):
    """A batch gives what its samples give one by one."""
    x, params, spec, options = layer
    alone = [operators.conv2d(one[None], params, spec, **options) for one in x]
    assert same_bits(operators.conv2d(x, params, spec, **options), torch.cat(alone))


@HALF
@given(linear_layers(), st.data())
def test_output_channels_commute(layer: QuantizedLayer, data: st.DataObject):
    """Permuting output channels with their bias and scale permutes the result."""
    x, params, spec, _ = layer
    order = data.draw(permutations(count=len(params["weight"])))
    permuted = {
        key: value if key == "clip" or len(value) == 1 else value[order]
        for key, value in params.items()
    }
    y = operators.linear(x, params, spec)
    assert same_bits(operators.linear(x, permuted, spec), y[..., order])


@HALF
@given(linear_layers(), st.data())
def test_inputs_commute(layer: QuantizedLayer, data: st.DataObject):
    """Permuting what is summed leaves every bit of the sum."""
    x, params, spec, _ = layer
    order = data.draw(permutations(count=x.shape[-1]))
    permuted = dict(params, weight=params["weight"][:, order])
    y = operators.linear(x, params, spec)
    assert same_bits(operators.linear(x[..., order], permuted, spec), y)


@HALF
@given(conv_transpose_layers(axes=2))
def test_inputs_are_unchanged(layer: QuantizedLayer):
    """Nothing writes to x or to a parameter."""
    x, params, spec, options = layer
    tensors = [x, *params["clip"], *(value for key, value in params.items() if key != "clip")]
    before = [t.clone() for t in tensors]
    operators.conv_transpose2d(x, params, spec, **options)
    assert all(same_bits(a, b) for a, b in zip(tensors, before, strict=True))


@HALF
@given(conv_layers(axes=3))
def test_every_gradient_is_finite(layer: QuantizedLayer):
    """Each parameter receives a finite gradient of its own shape."""
    x, params, spec, options = layer
    leaves = {key: value.requires_grad_() for key, value in params.items() if key != "clip"}
    ends = Clip(*(end.requires_grad_() for end in params["clip"]))
    y = operators.conv3d(x.requires_grad_(), {**leaves, "clip": ends}, spec, **options)
    tensors = [x, *leaves.values(), *ends]
    gradients = torch.autograd.grad(y.sum(), tensors)
    assert all(g.shape == t.shape for g, t in zip(gradients, tensors, strict=True))
    assert all(torch.isfinite(g).all() for g in gradients)
