"""Gradients of every quantized operator are the formulas, within bounds on float32's rounding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_map

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.operators import LAYERS, products
from property_tests.strategies.tensors import SEEDS
from qatfunc import operators
from tests.support.functions.float64_layers import LayerDerivatives, exact, product_gradients
from tests.support.functions.operands import Product, QuantizedLayer
from tests.support.functions.transforms import by_name, directions


@pytest.mark.parametrize("name", list(LAYERS))
@share_of_examples(0.3)
@given(data=st.data(), seed=SEEDS, x_too=st.booleans())
def test_gradients_are_the_formulas(name: str, data: st.DataObject, seed: int, x_too: bool):
    """Those of x, range, weight, trained scale and bias; the range's also where x wants none."""
    layer: QuantizedLayer = data.draw(LAYERS[name])
    x, params, spec, options = layer
    x = x.clone().requires_grad_(x_too)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), params)
    y = getattr(operators, name)(x, leaves, spec, **options)
    upstream = directions(y, seed)
    y.backward(upstream)
    wanted = LayerDerivatives(name, layer).gradients(exact(upstream))
    found = {key: leaf.grad for key, leaf in by_name((x, leaves)).items()}
    if not x_too:
        assert found.pop("x") is None
    assert all(wanted[key].admits(gradient) for key, gradient in found.items())


@share_of_examples(0.5)
@given(products(), SEEDS)
def test_gradients_of_a_product_are_the_formulas(case: Product, seed: int):
    """Those of both operands and of their ranges."""
    a, b = (t.clone().requires_grad_() for t in (case.a, case.b))
    params = tree_map(lambda t: t.clone().requires_grad_(), case.params)
    y = operators.matmul(a, b, params, case.spec)
    upstream = directions(y, seed)
    y.backward(upstream)
    wanted = product_gradients(case, upstream)
    for side, x, clip in zip("ab", (a, b), params.values(), strict=True):
        for key, leaf in {"x": x, **clip._asdict()}.items():
            assert wanted[f"{side} {key}"].admits(leaf.grad), key
