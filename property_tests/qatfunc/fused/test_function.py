"""Laws of the fused operator: it is the composition of plain functions, whatever the options."""

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import given
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.operators import conv_layers, conv_transpose_layers, linear_layers
from qatfunc import operators
from tests.support.bits import same_bits
from tests.support.functions.composed import without_fusing
from tests.support.functions.operands import QuantizedLayer

Operator = Callable[..., Tensor]
HALF = share_of_examples(0.5)


def outputs_and_gradients(
    operator: Operator, layer: QuantizedLayer, *, x_too: bool
) -> tuple[Tensor, list[Tensor]]:
    x, params, spec, options = layer
    x = x.clone().requires_grad_(x_too)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), params)
    y = operator(x, leaves, spec, **options)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    tensors = [x, *tree_leaves(leaves)] if x_too else tree_leaves(leaves)
    return y.detach(), list(torch.autograd.grad(y, tensors, upstream))


def assert_is_the_composition(operator: Operator, layer: QuantizedLayer) -> None:
    # What is wider is not fused.
    spec = replace(layer.spec, activation=replace(layer.spec.activation, bits=8))
    layer = layer._replace(spec=spec)
    with without_fusing():
        want_y, want = outputs_and_gradients(operator, layer, x_too=True)
    y, got = outputs_and_gradients(operator, layer, x_too=True)
    assert same_bits(y, want_y)
    _, without_x = outputs_and_gradients(operator, layer, x_too=False)
    for ours in (got, [got[0], *without_x]):
        for a, b in zip(ours, want, strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=2e-4 * size_of(b, want))


def size_of(gradient: Tensor, every: list[Tensor]) -> float:
    """What errors are relative to: sums in another order, products with scales rounded elsewhere.

    A sum of up to a few thousand terms is off by some 2^-24 of each; both ends of a range are
    made of the same sums.
    """
    alike = [g.abs().max() for g in every if g.ndim == 0] if gradient.ndim == 0 else []
    return max(1e-3, float(max([gradient.abs().max(), *alike])))


@given(linear_layers())
def test_linear_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.linear, layer)


@HALF
@given(conv_layers(axes=1))
def test_conv1d_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.conv1d, layer)


@given(conv_layers(axes=2))
def test_conv2d_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.conv2d, layer)


@HALF
@given(conv_layers(axes=3))
def test_conv3d_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.conv3d, layer)


@HALF
@given(conv_transpose_layers(axes=1))
def test_conv_transpose1d_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.conv_transpose1d, layer)


@given(conv_transpose_layers(axes=2))
def test_conv_transpose2d_is_the_composition(layer: QuantizedLayer):
    """The output has its bits; the gradients are equal but for the order of rounding."""
    assert_is_the_composition(operators.conv_transpose2d, layer)
