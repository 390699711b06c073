"""Gradients of every quantized operator are the formulas, within bounds on float32's rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

from property_tests.qatfunc.float64_layers import layer_gradients, product_gradients
from property_tests.strategies import LAYERS, Product, QuantizedLayer, products, share_of_examples
from qatfunc import Clip, operators

SEEDS = st.integers(0, 2**16)


def upstream_of(y: Tensor, seed: int) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))


def by_name(x: Tensor | None, params: dict[str, Tensor | Clip]) -> dict[str, Tensor]:
    """Leaves under the names that the formulas have."""
    found = {key: value for key, value in params.items() if key != "clip"}
    found |= params["clip"]._asdict()
    return found if x is None else found | {"x": x}


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
    upstream = upstream_of(y, seed)
    y.backward(upstream)
    wanted = layer_gradients(name, layer, upstream)
    for key, leaf in by_name(x if x_too else None, leaves).items():
        assert wanted[key].admits(leaf.grad), key


@share_of_examples(0.5)
@given(products(), SEEDS)
def test_gradients_of_a_product_are_the_formulas(case: Product, seed: int):
    """Those of both operands and of their ranges."""
    a, b = (t.clone().requires_grad_() for t in (case.a, case.b))
    params = tree_map(lambda t: t.clone().requires_grad_(), case.params)
    y = operators.matmul(a, b, params, case.spec)
    upstream = upstream_of(y, seed)
    y.backward(upstream)
    wanted = product_gradients(case, upstream)
    for side, x, clip in zip("ab", (a, b), params.values(), strict=True):
        for key, leaf in {"x": x, **clip._asdict()}.items():
            assert wanted[f"{side} {key}"].admits(leaf.grad), key
