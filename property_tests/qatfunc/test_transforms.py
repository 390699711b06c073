"""Laws under torch.func: whatever is asked of the fused operator, the composition gives the same.

Where a transform is served by the composition or asks for the forward alone, the operations are
the same and so is every bit. Gradients by the fused backward round in other places: those of either
way are within the bound of the formulas in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.operators import NAMED_LAYERS, NamedLayer
from property_tests.strategies.tensors import SEEDS
from tests.support.bits import same_bits
from tests.support.functions.composed import without_fusing
from tests.support.functions.float64_layers import LayerDerivatives, Named, exact
from tests.support.functions.transforms import Case, Operands, by_name, case_of

FACTORS = torch.tensor([1.0, 0.5, -1.0])


def stacked(t: Tensor, factors: Tensor = FACTORS) -> Tensor:
    """Operands for vmap: multiples of the one given."""
    return factors.reshape(-1, *(1 for _ in t.shape)) * t


def stacked_params(params: dict[str, Any]) -> dict[str, Any]:
    """The same of parameters; scales stay positive and ranges valid."""
    return {
        key: tree_map(lambda t: stacked(t, FACTORS.abs()), value)
        if key in ("clip", "weight_scale")
        else stacked(value)
        for key, value in params.items()
    }


def weighted(case: Case) -> Callable[[Operands], Tensor]:
    """A loss whose gradient at the output is given."""
    return lambda at: (case.function(at) * case.upstream).sum()


def curved(case: Case) -> Callable[[Operands], Tensor]:
    """A loss with a second derivative."""
    return lambda at: (case.function(at).square() * case.upstream).sum()


def of_inputs(case: Case) -> Any:
    return vmap(lambda x: case.function((x, case.at[1])))(stacked(case.at[0]))


def of_parameters(case: Case) -> Any:
    return vmap(lambda params: case.function((case.at[0], params)))(stacked_params(case.at[1]))


def of_both(case: Case) -> Any:
    return vmap(case.function)((stacked(case.at[0]), stacked_params(case.at[1])))


def each_gradient_of_inputs(case: Case) -> Any:
    return vmap(lambda x: grad(weighted(case))((x, case.at[1])))(stacked(case.at[0]))


def each_gradient_of_parameters(case: Case) -> Any:
    return vmap(lambda p: grad(weighted(case))((case.at[0], p)))(stacked_params(case.at[1]))


def each_gradient_of_both(case: Case) -> Any:
    return vmap(grad(weighted(case)))((stacked(case.at[0]), stacked_params(case.at[1])))


def gradient_of_both(case: Case) -> Any:
    batch = stacked(case.at[0]), stacked_params(case.at[1])
    return grad(lambda at: (vmap(case.function)(at) * case.upstream).sum())(batch)


def each_second_derivative(case: Case) -> Any:
    batch = stacked(case.at[0]), stacked_params(case.at[1])
    return vmap(lambda at: jvp(grad(curved(case)), (at,), (case.tangents,))[1])(batch)


def tangent(case: Case) -> Any:
    return jvp(case.function, (case.at,), (case.tangents,))


def forward_jacobian(case: Case) -> Any:
    return jacfwd(lambda clip: case.function((case.at[0], case.at[1] | {"clip": clip})))(
        case.at[1]["clip"]
    )


def reverse_jacobian(case: Case) -> Any:
    return jacrev(case.function)(case.at)


EXACT = [
    of_inputs,
    of_parameters,
    of_both,
    tangent,
    each_gradient_of_inputs,
    reverse_jacobian,
    forward_jacobian,
    each_second_derivative,
]
"""Transforms that the composition serves, or that compute nothing but the forward."""


def outputs(case: Case, members: Sequence[Operands]) -> Any:
    return [case.function(one) for one in members]


def gradients(case: Case, members: Sequence[Operands]) -> Any:
    return [grad(weighted(case))(one) for one in members]


BY_MEMBERS = [
    (of_parameters, outputs),
    (of_both, outputs),
    (each_gradient_of_parameters, gradients),
    (each_gradient_of_both, gradients),
    (gradient_of_both, gradients),
]
"""Transforms over layers with parameters of their own, and what each layer has to give."""


@share_of_examples(0.5)
@given(NAMED_LAYERS, st.sampled_from(EXACT), SEEDS)
def test_the_same_operations_give_the_same_bits(
    drawn: NamedLayer, transform: Callable[[Case], Any], seed: int
):
    """vmap, jvp, Jacobians and what is made of them have the composition's bits."""
    case = case_of(*drawn, seed)
    found = tree_leaves(transform(case))
    with without_fusing():
        wanted = tree_leaves(transform(case))
    assert all(same_bits(a, b) for a, b in zip(found, wanted, strict=True))


@share_of_examples(0.5)
@given(NAMED_LAYERS, st.sampled_from(BY_MEMBERS), SEEDS)
def test_members_have_the_bits_that_they_have_alone(
    drawn: NamedLayer,
    laws: tuple[Callable[[Case], Any], Callable[[Case, Sequence[Operands]], Any]],
    seed: int,
):
    """A layer vmapped over parameters gives each member's outputs and gradients in every bit."""
    transform, alone = laws
    case = case_of(*drawn, seed)
    x = stacked(case.at[0]) if "both" in transform.__name__ else [case.at[0]] * len(FACTORS)
    params = stacked_params(case.at[1])
    members = [(x[i], tree_map(lambda t, i=i: t[i], params)) for i in range(len(FACTORS))]
    wanted = [tree_leaves(one) for one in alone(case, members)]
    for i, found in enumerate(tree_leaves(transform(case))):
        assert same_bits(found, torch.stack([one[i] for one in wanted]))


def either_way(transform: Callable[[], Any]) -> tuple[Any, Any]:
    """What the fused operator gives, and the composition."""
    fused = transform()
    with without_fusing():
        return fused, transform()


def assert_admitted(wanted: Named, found: Operands) -> None:
    for key, tensor in by_name(found).items():
        assert wanted[key].admits(tensor), key


@share_of_examples(0.25)
@given(NAMED_LAYERS, st.booleans(), SEEDS)
def test_grad_and_vjp_are_the_formulas(drawn: NamedLayer, by_vjp: bool, seed: int):
    """Gradients are within the bound, either way."""
    case = case_of(*drawn, seed)
    wanted = LayerDerivatives(drawn[0], case.layer).gradients(exact(case.upstream))
    for found in either_way(
        lambda: (
            vjp(case.function, case.at)[1](case.upstream)[0]
            if by_vjp
            else grad(weighted(case))(case.at)
        )
    ):
        assert_admitted(wanted, found)


@share_of_examples(0.25)
@given(NAMED_LAYERS, SEEDS)
def test_grad_of_vmap_is_the_sum_of_the_formulas(drawn: NamedLayer, seed: int):
    """Gradients of parameters that a batch of inputs shares are within the bound, either way."""
    case = case_of(*drawn, seed)
    x, params = case.at
    batch, wanted = stacked(x), None
    for one in batch:
        each = LayerDerivatives(drawn[0], case.layer._replace(x=one))
        found = each.gradients(exact(case.upstream))
        wanted = found if wanted is None else {k: found[k] + wanted[k] for k in found}

    def loss(shared: dict[str, Any]) -> Tensor:
        return (vmap(lambda x: case.function((x, shared)))(batch) * case.upstream).sum()

    for gradients in either_way(lambda: grad(loss)(params)):
        assert_admitted({**wanted, "x": exact(x)}, (x, gradients))


@share_of_examples(0.25)
@given(NAMED_LAYERS, SEEDS)
def test_tangents_are_the_formula(drawn: NamedLayer, seed: int):
    """The output's tangent is within the bound."""
    case = case_of(*drawn, seed)
    wanted = LayerDerivatives(drawn[0], case.layer).tangent(by_name(case.tangents))
    assert wanted.admits(tangent(case)[1])


def forward_over_reverse(case: Case) -> Any:
    return jvp(grad(curved(case)), (case.at,), (case.tangents,))[1]


def reverse_over_forward(case: Case) -> Any:
    return grad(lambda at: jvp(curved(case), (at,), (case.tangents,))[1])(case.at)


def reverse_over_reverse(case: Case) -> Any:
    def product(at: Operands) -> Tensor:
        pairs = zip(tree_leaves(grad(curved(case))(at)), tree_leaves(case.tangents), strict=True)
        return sum(((a * b).sum() for a, b in pairs), torch.zeros(()))

    return grad(product)(case.at)


SECOND = [forward_over_reverse, reverse_over_forward, reverse_over_reverse]


@share_of_examples(0.25)
@given(NAMED_LAYERS, st.sampled_from(SECOND), SEEDS)
def test_hessian_vector_products_are_the_formula(
    drawn: NamedLayer, product: Callable[[Case], Any], seed: int
):
    """Second derivatives are within the bound, either way and in either mode."""
    case = case_of(*drawn, seed)
    tangents = by_name(case.tangents)
    wanted = LayerDerivatives(drawn[0], case.layer).second(case.upstream, case.y, tangents)
    for found in either_way(lambda: product(case)):
        assert_admitted(wanted, found)
